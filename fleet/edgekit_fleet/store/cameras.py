"""Camera lists by device or by label, their encrypted passwords, and the labels of devices."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import msgspec

from edgekit.core.cameras import Camera
from edgekit_fleet.store.database import Database, Sql

Scope = Literal["device", "label"]

_MIGRATIONS = [
    """
    CREATE TABLE camera_list (
      scope TEXT NOT NULL, name TEXT NOT NULL, cameras TEXT NOT NULL, changed_ms INTEGER NOT NULL,
      PRIMARY KEY (scope, name)
    ) WITHOUT ROWID;
    CREATE TABLE camera_password (
      scope TEXT NOT NULL, name TEXT NOT NULL, camera TEXT NOT NULL, sealed BLOB NOT NULL,
      set_ms INTEGER NOT NULL, PRIMARY KEY (scope, name, camera)
    ) WITHOUT ROWID;
    CREATE TABLE device_label (
      device TEXT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (device, label)
    ) WITHOUT ROWID;
    CREATE INDEX device_label_by_label ON device_label (label, device);
    """,
    "CREATE TABLE camera_due (device TEXT PRIMARY KEY) WITHOUT ROWID",
]
_CONCERNED = (
    "SELECT :name WHERE :scope = 'device'"
    " UNION ALL SELECT device FROM device_label WHERE :scope = 'label' AND label = :name"
)


class Target(NamedTuple):
    """What a list is for: one device, or every device with a label."""

    scope: Scope
    name: str

    def __str__(self) -> str:
        return f"{self.scope} {self.name}"


class StoredList(NamedTuple):
    """A list; each camera says when its password was set."""

    target: Target
    cameras: tuple[Camera, ...]
    changed_ms: int


class CameraStore:
    """The camera lists of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("cameras", _MIGRATIONS)

    def page(self, after: Target | None, limit: int) -> list[StoredList]:
        """Return lists, those of devices first, by name; ``after`` is the last one shown."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM camera_list WHERE (scope, name) > (?, ?) ORDER BY scope, name LIMIT ?",
                (*(after or ("", "")), limit),
            ).fetchall()
            return [_list(sql, row) for row in rows]

    def get(self, target: Target) -> StoredList | None:
        """Return the list of a device or label."""
        with self._database.read() as sql:
            return get(sql, target)

    def of_device(self, device: str) -> list[StoredList]:
        """Return the lists that a device gets: those of its labels by name, then its own."""
        with self._database.read() as sql:
            return of_device(sql, device)

    def labels(self, device: str) -> tuple[str, ...]:
        """Return a device's labels by name."""
        with self._database.read() as sql:
            return labels(sql, device)

    def concerned(self, target: Target) -> list[str]:
        """Return the devices that a list is for."""
        with self._database.read() as sql:
            return concerned(sql, target)


def get(sql: Sql, target: Target) -> StoredList | None:
    """Return a list as the open transaction sees it."""
    row = sql.execute("SELECT * FROM camera_list WHERE scope = ? AND name = ?", target).fetchone()
    return None if row is None else _list(sql, row)


def of_device(sql: Sql, device: str) -> list[StoredList]:
    """Return the lists that a device gets, as the open transaction sees them; see ``CameraStore``."""
    targets = [*(Target("label", label) for label in labels(sql, device)), Target("device", device)]
    return [stored for target in targets if (stored := get(sql, target)) is not None]


def concerned(sql: Sql, target: Target) -> list[str]:
    """Return the devices that a list is for, as the open transaction sees them."""
    return [str(row[0]) for row in sql.execute(_CONCERNED, target._asdict())]


def combinations(sql: Sql, target: Target) -> list[str]:
    """Return devices that a list is for: one of each combination of lists that go together on a device."""
    rows = sql.execute(
        f"WITH concerned (device) AS ({_CONCERNED}), named (device, list) AS ("  # noqa: S608 - fixed texts
        " SELECT device, '' FROM concerned"
        " UNION ALL SELECT device, label FROM concerned JOIN device_label USING (device)"
        " JOIN camera_list ON scope = 'label' AND name = label"
        " UNION ALL SELECT device, '/' || device FROM concerned"
        " JOIN camera_list ON scope = 'device' AND name = device),"
        " together (device, lists) AS ("
        " SELECT device, group_concat(list) FROM (SELECT * FROM named ORDER BY device, list) GROUP BY device)"
        " SELECT min(device) FROM together GROUP BY lists",
        target._asdict(),
    )
    return [str(row[0]) for row in rows]


def owe(sql: Sql, target: Target) -> None:
    """Record that the devices that a list is for are to be told of it."""
    sql.execute(
        f"INSERT OR IGNORE INTO camera_due SELECT * FROM ({_CONCERNED})",  # noqa: S608 - fixed texts
        target._asdict(),
    )


def due(sql: Sql, limit: int) -> list[str]:
    """Return the first devices that are to be told of their list."""
    rows = sql.execute("SELECT device FROM camera_due ORDER BY device LIMIT ?", (limit,))
    return [row["device"] for row in rows]


def settle(sql: Sql, devices: Sequence[str]) -> None:
    """Record that devices were told."""
    names = msgspec.json.encode(devices).decode()
    sql.execute("DELETE FROM camera_due WHERE device IN (SELECT value FROM json_each(?))", (names,))


def put(sql: Sql, target: Target, cameras: Sequence[Camera], keep: Collection[str], now_ms: int) -> None:
    """Replace a list; only the passwords of the cameras in ``keep`` stay."""
    text = msgspec.json.encode(
        [msgspec.structs.replace(camera, password_unix_ms=0) for camera in cameras]
    ).decode()
    sql.execute("INSERT OR REPLACE INTO camera_list VALUES (?, ?, ?, ?)", (*target, text, now_ms))
    rows = sql.execute("SELECT camera FROM camera_password WHERE scope = ? AND name = ?", target).fetchall()
    for row in rows:
        if row["camera"] not in keep:
            put_password(sql, target, row["camera"], None, 0)


def delete(sql: Sql, target: Target) -> None:
    """Delete a list with its passwords."""
    sql.execute("DELETE FROM camera_list WHERE scope = ? AND name = ?", target)
    sql.execute("DELETE FROM camera_password WHERE scope = ? AND name = ?", target)


def put_password(sql: Sql, target: Target, camera: str, sealed: bytes | None, now_ms: int) -> None:
    """Set a camera's encrypted password, or with None delete it."""
    sql.execute("DELETE FROM camera_password WHERE scope = ? AND name = ? AND camera = ?", (*target, camera))
    if sealed is not None:
        sql.execute("INSERT INTO camera_password VALUES (?, ?, ?, ?, ?)", (*target, camera, sealed, now_ms))


def sealed_passwords(sql: Sql, target: Target) -> dict[str, bytes]:
    """Return the encrypted passwords of a list, by camera."""
    rows = sql.execute("SELECT camera, sealed FROM camera_password WHERE scope = ? AND name = ?", target)
    return {row["camera"]: row["sealed"] for row in rows}


def put_labels(sql: Sql, device: str, names: Collection[str]) -> None:
    """Replace a device's labels."""
    sql.execute("DELETE FROM device_label WHERE device = ?", (device,))
    sql.executemany("INSERT INTO device_label VALUES (?, ?)", [(device, name) for name in names])


def labels(sql: Sql, device: str) -> tuple[str, ...]:
    """Return a device's labels by name, as the open transaction sees them."""
    rows = sql.execute("SELECT label FROM device_label WHERE device = ? ORDER BY label", (device,))
    return tuple(row["label"] for row in rows)


def _list(sql: Sql, row: sqlite3.Row) -> StoredList:
    target = Target("device" if row["scope"] == "device" else "label", row["name"])
    rows = sql.execute("SELECT camera, set_ms FROM camera_password WHERE scope = ? AND name = ?", target)
    set_ms = {password["camera"]: password["set_ms"] for password in rows}
    cameras = tuple(
        msgspec.structs.replace(camera, password_unix_ms=set_ms.get(camera.name, 0))
        for camera in msgspec.json.decode(row["cameras"], type=tuple[Camera, ...])
    )
    return StoredList(target, cameras, int(row["changed_ms"]))
