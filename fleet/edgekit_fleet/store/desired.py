"""The desired state of each device: one signed document, and which version of it was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from edgekit_fleet.store.database import Database, Sql

_MIGRATIONS = [
    """
    CREATE TABLE desired (
      device TEXT PRIMARY KEY, version INTEGER NOT NULL, body BLOB NOT NULL,
      published INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX desired_pending ON desired (device) WHERE published < version;
    """,
]


class Document(NamedTuple):
    """A device's desired state as it is sent; ``body`` is the signed document."""

    device: str
    version: int
    body: bytes


class Documents:
    """The desired states of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("desired", _MIGRATIONS)

    def get(self, device: str) -> Document | None:
        """Return a device's document; None where nothing was ever desired of it."""
        with self._database.read() as sql:
            return get(sql, device)

    def pending(self, heard_since_ms: int = 0) -> list[Document]:
        """Return every document whose newest version was not published yet.

        Args:
            heard_since_ms: Leave out devices that were not heard since this time (a restore), and those that
                have accepted a newer document than this database has: they would refuse it as an attack.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT d.device, d.version, d.body FROM desired d LEFT JOIN device ON device.id = d.device"
                " WHERE d.published < d.version AND coalesce(device.desired, 0) <= d.version"
                " AND coalesce(device.seen_ms, 0) >= ?",
                (heard_since_ms,),
            )
            return [Document(*row) for row in rows]

    def set_published(self, documents: Sequence[Document]) -> None:
        """Record that these documents were published."""
        sent = {document.device: document.version for document in documents}
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE desired SET published = sent.value FROM json_each(?) AS sent"
                " WHERE device = sent.key AND published < sent.value",
                (msgspec.json.encode(sent).decode(),),
            )

    def accepted(self) -> int:
        """Return the number of approved devices that have accepted their newest document."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT count(*) FROM desired d JOIN device ON device.id = d.device"
                " WHERE device.state = 'approved' AND device.desired >= d.version"
            ).fetchone()
        return int(row[0])

    def forget(self, device: str) -> None:
        """Delete a device's document."""
        with self._database.transaction() as sql:
            sql.execute("DELETE FROM desired WHERE device = ?", (device,))

    def set_all_pending(self) -> None:
        """Have every document published again."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE desired SET published = 0")


def get(sql: Sql, device: str) -> Document | None:
    """Return a device's document as the open transaction sees it."""
    row = sql.execute("SELECT device, version, body FROM desired WHERE device = ?", (device,)).fetchone()
    return None if row is None else Document(*row)


def longer(sql: Sql, devices: Sequence[str], size: int) -> list[str]:
    """Return those of some devices whose document has more bytes than this."""
    rows = sql.execute(
        "SELECT device FROM json_each(?) JOIN desired ON device = value WHERE length(body) > ?",
        (msgspec.json.encode(devices).decode(), size),
    )
    return [row["device"] for row in rows]


def put(sql: Sql, document: Document) -> None:
    """Replace a device's document; it is pending then."""
    sql.execute(
        "INSERT INTO desired (device, version, body) VALUES (?,?,?) ON CONFLICT (device)"
        " DO UPDATE SET version = excluded.version, body = excluded.body",
        document,
    )
