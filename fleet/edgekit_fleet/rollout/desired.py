"""What each device shall run: whole, versioned, signed documents, kept until they are published.

A change is committed first and published afterwards; ``pending`` is what was not published yet, so
a crash between the two loses nothing. Publishing twice is harmless: the document is retained, and a
device ignores a version that it has.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.registry.keys import SigningKey, desired_key_id
from edgekit_fleet.store.database import Database

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
    """A device's desired state as it is sent."""

    device: str
    version: int
    body: bytes


class DesiredStates:
    """The desired states of one fleet.

    Args:
        database: Where they are kept; the table is made when missing.
        key: Signs them.
        downlink: The way to the devices.
        clock: Gives Unix time in milliseconds.
    """

    def __init__(
        self, database: Database, key: SigningKey, downlink: Downlink, clock: Callable[[], int]
    ) -> None:
        self._database, self._key, self._downlink, self._clock = database, key, downlink, clock
        database.migrate("desired", _MIGRATIONS)

    def of_device(self, device: str) -> wire.Desired | None:
        """Return what a device shall run; None where nothing was ever asked of it."""
        with self._database.read() as sql:
            return _decoded(sql, device)

    def set_model(self, device: str, model: str, wanted: wire.DesiredModel | None) -> int:
        """Want a version of a model on a device, or None for no wish; return the document's version.

        It is published by ``publish_pending``. Call it in the transaction that records why. Nothing
        changes where the wish is already that.

        Raises:
            ConfigError: The document would be too large for devices to read, or the target is not one
                that devices install (but one for measuring only).
        """
        if wanted is not None and wanted.target != wire.target_path(model, wanted.version):
            raise ConfigError(
                f"{wanted.target[:200]!r} is not what devices install as {model} {wanted.version}"
            )
        with self._database.transaction() as sql:
            before = _decoded(sql, device)
            models = dict(before.models) if before else {}
            if before and models.get(model) == wanted:
                return before.version
            models.pop(model, None)
            if wanted is not None:
                models[model] = wanted
            version = max(before.version + 1 if before else 1, self._clock() // 1000)
            body = self._signed(device, version, models, before.config if before else {})
            sql.execute(
                "INSERT INTO desired (device, version, body) VALUES (?,?,?) ON CONFLICT (device)"
                " DO UPDATE SET version = excluded.version, body = excluded.body",
                (device, version, body),
            )
        return version

    def _signed(
        self, device: str, version: int, models: dict[str, wire.DesiredModel], config: dict[str, Any]
    ) -> bytes:
        """Return an encoded, signed document.

        Versions follow the clock where they can, so that a fleet restored from a backup does not
        fall behind what devices have accepted.
        """
        plain = wire.Desired(device, version, models, config, self._clock())
        signature = self._key.sign(wire.signed_bytes(wire.encode(plain))).hex()
        named = {"keyid": desired_key_id(self._key.public), "sig": signature}
        body = wire.encode(msgspec.structs.replace(plain, signature=named))
        if len(body) > wire.MAX_DESIRED_BYTES:
            raise ConfigError(
                f"the desired state of {device} would have {len(body)} bytes,"
                f" devices read at most {wire.MAX_DESIRED_BYTES}",
                hint="give the device fewer models",
            )
        return body

    def publish_pending(self) -> int:
        """Send every document that was not sent yet; return how many.

        Raises:
            StorageError: What was sent cannot be noted; it will be sent again.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT device, version, body FROM desired WHERE published < version"
            ).fetchall()
        for row in rows:
            self._send(Document(*row))
        if rows:
            with self._database.transaction() as sql:
                sql.executemany(
                    "UPDATE desired SET published = ? WHERE device = ? AND published < ?",
                    [(row["version"], row["device"], row["version"]) for row in rows],
                )
        return len(rows)

    def publish_all(self) -> None:
        """Send every document again: the broker may have lost what it retained."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE desired SET published = 0")
        self.publish_pending()

    def publish_if_newer(self, device: str, applied: int) -> None:
        """Send a device's document again when it has applied an older one."""
        document = self.of_device(device)
        if document is not None and document.version > applied:
            self.publish(device)

    def publish(self, device: str) -> int:
        """Send one device's document again; return its version, 0 where there is none."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT device, version, body FROM desired WHERE device = ?", (device,)
            ).fetchone()
        if row is None:
            return 0
        self._send(Document(*row))
        return int(row["version"])

    def _send(self, document: Document) -> None:
        self._downlink.publish(document.device, "desired", document.body, retain=True)


def _decoded(sql: sqlite3.Connection, device: str) -> wire.Desired | None:
    row = sql.execute("SELECT body FROM desired WHERE device = ?", (device,)).fetchone()
    return None if row is None else wire.decode(row["body"], wire.Desired)
