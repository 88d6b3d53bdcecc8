"""Reads the fleet as a whole: every device in a few columns, and which devices run a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.core import wire
from edgekit.core.sketch import Sketch
from edgekit_fleet.store.database import Database

MAX_SUMMED = 100_000


@dataclass(frozen=True)
class Row:
    """One device as lists show it; ``seen_ms`` is 0 until it has sent something."""

    id: str
    is_revoked: bool
    is_online: bool
    profile: str
    seen_ms: int


@dataclass(frozen=True)
class Holder:
    """A device that runs a version of a model, and the variant it chose."""

    device: str
    variant: str
    is_online: bool


@dataclass(frozen=True)
class Rate:
    """Sums of recent metric reports of one version of a model."""

    frames: int
    errors: int
    dropped: int


class Overview:
    """Reads the devices of one database as a whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self, devices: Sequence[str] | None = None) -> list[Row]:
        """Return every device, or the named ones, ordered by id."""
        where, values = "", list(devices or ())
        if devices is not None:
            where = f"WHERE id IN ({','.join('?' * len(values))})"
        with self._database.read() as sql:
            rows = sql.execute(
                f"SELECT id, state, online, profile, seen_ms FROM device {where} ORDER BY id",  # noqa: S608 - only marks
                values,
            ).fetchall()
        return [
            Row(
                row["id"], row["state"] == "revoked", bool(row["online"]), row["profile"], row["seen_ms"] or 0
            )
            for row in rows
        ]

    def models(self, devices: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
        """Return (model, active version, variant) of some devices' models, by device."""
        by_device: dict[str, list[tuple[str, str, str]]] = {}
        with self._database.read() as sql:
            for row in sql.execute(
                "SELECT device, model, active, variant FROM device_model"  # noqa: S608 - only marks
                f" WHERE device IN ({','.join('?' * len(devices))}) ORDER BY device, model",
                list(devices),
            ):
                by_device.setdefault(row["device"], []).append((row["model"], row["active"], row["variant"]))
        return by_device

    def holders(self, model: str, version: str, limit: int = 500) -> list[Holder]:
        """Return devices that run a version of a model, ordered by id."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT device, variant, online FROM device_model JOIN device ON device.id = device"
                " WHERE model = ? AND active = ? ORDER BY device LIMIT ?",
                (model, version, limit),
            ).fetchall()
        return [Holder(row["device"], row["variant"], bool(row["online"])) for row in rows]

    def running(self) -> dict[tuple[str, str], int]:
        """Return how many devices run each (model, version)."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT model, active, count(*) AS n FROM device_model GROUP BY model, active")
            return {(row["model"], row["active"]): row["n"] for row in rows}

    def profiles(self) -> dict[str, int]:
        """Return how many devices there are of each profile."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT profile, count(*) AS n FROM device GROUP BY profile")
            return {row["profile"]: row["n"] for row in rows}

    def rates(self, since_ms: int) -> dict[tuple[str, str], Rate]:
        """Return the sums of the reports that arrived since a time, by (model, version).

        Of more than 100,000 reports only the last are summed, so that the cost is bounded.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT model, version, sum(frames) AS frames, sum(errors) AS errors, sum(dropped) AS dropped"
                " FROM metric WHERE id > (SELECT coalesce(max(id), 0) FROM metric) - ? AND arrived_ms >= ?"
                " GROUP BY model, version",
                (MAX_SUMMED, since_ms),
            )
            return {
                (row["model"], row["version"]): Rate(row["frames"], row["errors"], row["dropped"])
                for row in rows
            }

    def reported(self) -> Iterator[tuple[str, wire.Reported]]:
        """Yield every device's last reported state."""
        decoder = msgspec.json.Decoder(wire.Reported)
        with self._database.read() as sql:
            rows = sql.execute("SELECT id, reported FROM device WHERE reported IS NOT NULL").fetchall()
        for row in rows:
            yield row["id"], decoder.decode(row["reported"])

    def latest(self, since_ms: int) -> Iterable[tuple[str, str, int, float, int, Sketch | None]]:
        """Yield (device, pipeline, at_ms, period_s, frames, infer_ms) of reports since a time, in order."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT device, pipeline, at_ms, period_s, frames, infer_ms FROM metric"
                " WHERE at_ms >= ? ORDER BY at_ms",
                (since_ms,),
            ).fetchall()
        for row in rows:
            sketch = row["infer_ms"] and msgspec.json.decode(row["infer_ms"], type=Sketch)
            yield row["device"], row["pipeline"], row["at_ms"], row["period_s"], row["frames"], sketch
