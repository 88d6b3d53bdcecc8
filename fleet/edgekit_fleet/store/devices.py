"""The devices: their state, what they last sent, and their certificates."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit_fleet.store.database import Database, documents

MAX_PAGE = 500

_MIGRATIONS = [
    """
    CREATE TABLE device (
      id TEXT PRIMARY KEY, state TEXT NOT NULL, enrolled_ms INTEGER NOT NULL, seen_ms INTEGER,
      online INTEGER NOT NULL DEFAULT 0, boot TEXT NOT NULL DEFAULT '', conn INTEGER NOT NULL DEFAULT 0,
      ended INTEGER NOT NULL DEFAULT -1, agent TEXT NOT NULL DEFAULT '', profile TEXT NOT NULL DEFAULT '',
      desired INTEGER NOT NULL DEFAULT 0, clock TEXT NOT NULL DEFAULT 'unknown', birth TEXT, reported TEXT,
      hardware TEXT,
      reported_version INTEGER NOT NULL DEFAULT 0, reported_boot TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX device_online ON device (online, id);
    CREATE TABLE device_model (
      device TEXT NOT NULL REFERENCES device (id), model TEXT NOT NULL, active TEXT NOT NULL,
      variant TEXT NOT NULL, PRIMARY KEY (device, model)
    ) WITHOUT ROWID;
    CREATE INDEX device_model_by_model ON device_model (model, active);
    CREATE TABLE certificate (
      serial TEXT PRIMARY KEY, device TEXT NOT NULL REFERENCES device (id), key_sha256 TEXT NOT NULL,
      issued_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, pem TEXT NOT NULL
    );
    CREATE INDEX certificate_device ON certificate (device);
    """,
    "CREATE INDEX certificate_key ON certificate (key_sha256)",
    """
    CREATE INDEX certificate_issued ON certificate (issued_ms);
    CREATE TABLE barred_certificate (serial TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
    """,
    "CREATE INDEX device_state ON device (state, online, profile, id)",
]


_DEVICE = """json_object(
  'id', id, 'state', state, 'enrolled_ms', enrolled_ms, 'seen_ms', seen_ms,
  'online', json(iif(online, 'true', 'false')), 'boot', boot, 'conn', conn, 'agent', agent,
  'profile', profile, 'desired', desired, 'clock', clock,
  'models', (SELECT json_group_object(model, active) FROM device_model WHERE device = device.id)
) AS document"""


@dataclass(frozen=True)
class Device:
    """One device as the fleet knows it; ``seen_ms`` is None until it has sent something."""

    id: str
    state: Literal["approved", "revoked"]
    enrolled_ms: int
    seen_ms: int | None
    online: bool
    boot: str
    conn: int
    agent: str
    profile: str
    desired: int
    clock: str
    models: dict[str, str]
    """The active version of each model."""


@dataclass(frozen=True)
class Page:
    """Devices ordered by id; ``next`` is the cursor of the next page, None on the last."""

    items: list[Device]
    next: str | None


class Devices:
    """The devices of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changing = threading.Lock()
        self._changes = 0
        database.migrate("devices", _MIGRATIONS)
        with database.read() as sql:
            rows = sql.execute("SELECT id FROM device WHERE state = 'approved'").fetchall()
            barred = sql.execute("SELECT serial FROM barred_certificate").fetchall()
        self._welcome = {row["id"] for row in rows}
        self._barred = {row["serial"] for row in barred}

    def exists(self, device: str) -> bool:
        """Say whether a device with this id is or was enrolled."""
        with self._database.read() as sql:
            return sql.execute("SELECT 1 FROM device WHERE id = ?", (device,)).fetchone() is not None

    def known(self, devices: Collection[str]) -> set[str]:
        """Return those of these ids that are enrolled and not revoked."""
        return {device for device in devices if self.is_welcome(device)}

    def is_welcome(self, device: str) -> bool:
        """Say whether a device may connect: enrolled and not revoked.

        From memory, as 10,000 devices that reconnect at once need it; the database is read for devices
        that are not known here yet.
        """
        with self._changing:
            if device in self._welcome:
                return True
            changes = self._changes
        with self._database.read() as sql:
            row = sql.execute("SELECT state FROM device WHERE id = ?", (device,)).fetchone()
        is_welcome = row is not None and row["state"] == "approved"
        with self._changing:
            if is_welcome and changes == self._changes:  # else it may have been revoked meanwhile
                self._welcome.add(device)
        return is_welcome

    def approved(self) -> list[str]:
        """Return the ids of all devices that may connect."""
        with self._database.read() as sql:
            return [row["id"] for row in sql.execute("SELECT id FROM device WHERE state = 'approved'")]

    def is_barred(self, serial: str) -> bool:
        """Say whether a certificate is of a device that was deleted; from memory."""
        return serial in self._barred

    def delete(self, device: str, now_ms: int) -> bool:
        """Forget a device, so that its name is free; return False if there is no device with this id.

        Its certificates are barred until they end: a device that gets the name later is another one. What
        it sent stays until it is old.
        """
        with self._database.transaction() as sql:
            serials = sql.execute(
                "SELECT serial, expires_ms FROM certificate WHERE device = ? AND expires_ms > ?",
                (device, now_ms),
            ).fetchall()
            sql.execute("DELETE FROM barred_certificate WHERE expires_ms <= ?", (now_ms,))
            sql.executemany(
                "INSERT OR IGNORE INTO barred_certificate VALUES (?, ?)", [tuple(row) for row in serials]
            )
            sql.execute("DELETE FROM certificate WHERE device = ?", (device,))
            sql.execute("DELETE FROM device_model WHERE device = ?", (device,))
            is_gone = sql.execute("DELETE FROM device WHERE id = ?", (device,)).rowcount > 0
        self._barred |= {row["serial"] for row in serials}
        with self._changing:
            self._changes += 1
            self._welcome.discard(device)
        return is_gone

    def enroll(self, device: str, now_ms: int, hardware: str | None) -> None:
        """Add a device, with the JSON of its hardware facts.

        Raises:
            sqlite3.IntegrityError: The id is taken.
        """
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO device (id, state, enrolled_ms, hardware) VALUES (?, 'approved', ?, ?)",
                (device, now_ms, hardware),
            )

    def add_certificate(
        self, device: str, *, serial: str, key_sha256: str, issued_ms: int, expires_ms: int, pem: str
    ) -> None:
        """Record a certificate that was issued."""
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO certificate VALUES (?,?,?,?,?,?)",
                (serial, device, key_sha256, issued_ms, expires_ms, pem),
            )

    def certificate(self, device: str, key_sha256: str, now_ms: int) -> str | None:
        """Return the PEM of a device's newest valid certificate for a key."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT pem FROM certificate WHERE device = ? AND key_sha256 = ? AND expires_ms > ?"
                " ORDER BY issued_ms DESC LIMIT 1",
                (device, key_sha256, now_ms),
            ).fetchone()
        return None if row is None else str(row["pem"])

    def revoked_serials(self, now_ms: int) -> list[str]:
        """Return the certificates, by serial number, of revoked and deleted devices that have not ended."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT serial FROM certificate JOIN device ON device.id = device"
                " WHERE state = 'revoked' AND expires_ms > ?"
                " UNION SELECT serial FROM barred_certificate WHERE expires_ms > ? ORDER BY serial",
                (now_ms, now_ms),
            )
            return [row["serial"] for row in rows]

    def ending(self, before_ms: int) -> dict[str, int]:
        """Return the devices, by id, whose newest certificate ends before a time, and when it ends.

        The first to end is first. Revoked devices are left out.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT device, max(expires_ms) AS ends_ms FROM certificate JOIN device ON device.id = device"
                " WHERE state = 'approved' GROUP BY device HAVING ends_ms < ? ORDER BY ends_ms, device",
                (before_ms,),
            )
            return {row["device"]: row["ends_ms"] for row in rows}

    def last_issued_ms(self) -> int:
        """Return when the newest certificate was issued; a clock before that is slow."""
        with self._database.read() as sql:
            return int(sql.execute("SELECT coalesce(max(issued_ms), 0) FROM certificate").fetchone()[0])

    def of_key(self, key_sha256: str) -> str | None:
        """Return the device that a certificate for this key was issued to last; None if there is none."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT device FROM certificate WHERE key_sha256 = ? ORDER BY issued_ms DESC LIMIT 1",
                (key_sha256,),
            ).fetchone()
        return None if row is None else str(row["device"])

    def certificates(self, device: str) -> list[dict[str, Any]]:
        """Return serial and times of a device's certificates, the newest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT serial, issued_ms, expires_ms FROM certificate WHERE device = ?"
                " ORDER BY issued_ms DESC LIMIT 20",
                (device,),
            )
            return [dict(row) for row in rows]

    def revoke(self, device: str) -> bool:
        """Bar a device from connecting; return False if there is no device with this id."""
        try:
            with self._database.transaction() as sql:
                return sql.execute("UPDATE device SET state = 'revoked' WHERE id = ?", (device,)).rowcount > 0
        finally:
            with self._changing:
                self._changes += 1
                self._welcome.discard(device)

    def restore(self, device: str) -> bool:
        """Undo ``revoke``."""
        with self._database.transaction() as sql:
            return sql.execute("UPDATE device SET state = 'approved' WHERE id = ?", (device,)).rowcount > 0

    def take_birth(self, device: str, birth: wire.Birth, arrived_ms: int, *, present: bool = True) -> bool:
        """Store a birth or a last will, unless a newer one is stored.

        Args:
            device: Who sent it; unknown devices are ignored.
            birth: What it says.
            arrived_ms: When the broker took it.
            present: False for a message from before the broker's last start, which says nothing
                about who is connected now.

        Returns:
            Whether it was taken.

        Raises:
            ProtocolError: It breaks a rule of the database; nothing of it was stored.
        """
        with self._storing("state") as sql:
            row = sql.execute("SELECT boot, conn, ended FROM device WHERE id = ?", (device,)).fetchone()
            if row is None or not is_newer(birth, row["boot"], row["conn"], row["ended"]):
                return False
            online = birth.online and present
            if birth.online:
                sql.execute(
                    "UPDATE device SET online=?, boot=?, conn=?, ended=-1, agent=?, profile=?, desired=?,"
                    " clock=?, birth=?, seen_ms=max(coalesce(seen_ms,0),?) WHERE id=?",
                    (
                        online,
                        birth.boot,
                        birth.conn,
                        birth.agent,
                        birth.profile,
                        birth.desired,
                        birth.clock,
                        msgspec.json.encode(birth).decode(),
                        arrived_ms,
                        device,
                    ),
                )
            else:
                sql.execute(
                    "UPDATE device SET online=0, boot=?, conn=?, ended=? WHERE id=?",
                    (birth.boot, birth.conn, birth.conn, device),
                )
        return True

    def take_reported(self, device: str, reported: wire.Reported, arrived_ms: int) -> bool:
        """Store a reported state, unless a later one of the same boot is stored.

        Raises:
            ProtocolError: It breaks a rule of the database; nothing of it was stored.
        """
        with self._storing("reported") as sql:
            row = sql.execute(
                "SELECT reported_boot, reported_version FROM device WHERE id = ?", (device,)
            ).fetchone()
            if row is None:
                return False
            if row["reported_boot"] == reported.boot and row["reported_version"] > reported.version:
                return False
            sql.execute(
                "UPDATE device SET reported=?, reported_version=?, reported_boot=?, desired=?,"
                " seen_ms=max(coalesce(seen_ms,0),?) WHERE id=?",
                (
                    msgspec.json.encode(reported).decode(),
                    reported.version,
                    reported.boot,
                    reported.desired,
                    arrived_ms,
                    device,
                ),
            )
            sql.execute("DELETE FROM device_model WHERE device = ?", (device,))
            sql.executemany(
                "INSERT INTO device_model VALUES (?,?,?,?)",
                [(device, name, model.active, model.variant) for name, model in reported.models.items()],
            )
        return True

    @contextlib.contextmanager
    def _storing(self, what: str) -> Iterator[sqlite3.Connection]:
        """Store one message of a pull: one that cannot be stored must not fail the others."""
        try:
            with self._database.savepoint() as sql:
                yield sql
        except (sqlite3.IntegrityError, ValueError, OverflowError) as cause:
            raise ProtocolError(f"{what}: {cause}") from cause

    def touch(self, heard_ms: Mapping[str, int]) -> None:
        """Record when devices last sent something, by their ids."""
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE device SET seen_ms = max(coalesce(seen_ms, 0), heard.value)"
                " FROM json_each(?) AS heard WHERE device.id = heard.key",
                (json.dumps(heard_ms),),
            )

    def all_offline(self) -> None:
        """Record that no device is connected: the broker is starting, and births will follow."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE device SET online = 0 WHERE online = 1")

    def get(self, device: str) -> Device | None:
        """Return one device."""
        with self._database.read() as sql:
            known = documents(sql, Device, f"SELECT {_DEVICE} FROM device WHERE id = ?", (device,))  # noqa: S608 - fixed text
        return known[0] if known else None

    def documents(self, device: str) -> dict[str, Any]:
        """Return what a device last sent, decoded: ``birth``, ``reported``, ``hardware``, each or None."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT birth, reported, hardware FROM device WHERE id = ?", (device,)
            ).fetchone()
        return {} if row is None else {key: row[key] and json.loads(row[key]) for key in row.keys()}  # noqa: SIM118 - a Row iterates its values

    def reported(self, device: str) -> wire.Reported | None:
        """Return the last reported state of a device."""
        with self._database.read() as sql:
            row = sql.execute("SELECT reported FROM device WHERE id = ?", (device,)).fetchone()
        if row is None or row["reported"] is None:
            return None
        return msgspec.json.decode(row["reported"], type=wire.Reported)

    def page(
        self,
        *,
        after: str = "",
        limit: int = 50,
        search: str = "",
        online: bool | None = None,
        profile: str = "",
        model: str = "",
        version: str = "",
    ) -> Page:
        """Return a page of devices, ordered by id, that match every given filter.

        Args:
            after: The cursor: ids greater than this.
            limit: Devices a page, 1 to 500.
            search: A part of the id.
            online: Only those connected, or only those not.
            profile: Only boards of this profile.
            model: Only devices that hold this model...
            version: ...with this version active.
        """
        limit = min(max(limit, 1), MAX_PAGE)
        where, values = ["id > ?"], [after]
        for condition, value in (
            ("id LIKE ? ESCAPE '\\'", f"%{_escaped(search)}%" if search else None),
            ("online = ?", online),
            ("profile = ?", profile or None),
            ("EXISTS (SELECT 1 FROM device_model WHERE device = device.id AND model = ?)", model or None),
            (
                "EXISTS (SELECT 1 FROM device_model WHERE device = device.id AND model || '@' || active = ?)",
                f"{model}@{version}" if model and version else None,
            ),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)  # type: ignore[arg-type]
        with self._database.read() as sql:
            query = f"SELECT {_DEVICE} FROM device WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"  # noqa: S608 - fixed conditions, bound values
            items = documents(sql, Device, query, (*values, limit + 1))
        return Page(items[:limit], items[limit - 1].id if len(items) > limit else None)

    def counts(self) -> dict[str, int]:
        """Return the number of devices: ``total``, ``online``, ``revoked``."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT count(*) AS total, coalesce(sum(online), 0) AS online,"
                " coalesce(sum(state = 'revoked'), 0) AS revoked FROM device"
            ).fetchone()
        return dict(row)


def is_newer(birth: wire.Birth, boot: str, conn: int, ended: int = -1) -> bool:
    """Say whether a birth or last will is newer than the stored one.

    An old will has a smaller connection counter, or another boot, than the birth that came after it;
    the broker may deliver it later. A birth that is delivered again after its own will is over too.

    >>> is_newer(wire.Birth(online=False, boot="a", conn=3), "a", 4)
    False
    >>> is_newer(wire.Birth(online=False, boot="a", conn=4), "a", 4)
    True
    >>> is_newer(wire.Birth(online=True, boot="a", conn=4), "a", 4, ended=4)
    False

    Args:
        birth: The message.
        boot: The boot of the last one taken.
        conn: Its connection counter.
        ended: The connection counter of the last will taken in this boot, -1 without one.
    """
    if birth.boot != boot:
        return birth.online or not boot
    return birth.conn > conn or (birth.conn == conn and not (birth.online and ended == conn))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
