"""Reads what devices measured and what happened on them: series for charts, sums, events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgekit.core.sketch import Histogram, Sketch
from edgekit_fleet.store.database import Database, documents

MAX_POINTS = 1000
_EVENT = "json_object('id', id, 'device', device, 'at_ms', at_ms, 'kind', kind, 'body', json(body))"


@dataclass
class Measured:
    """The sum of several metric reports; times in milliseconds, as exact as the histogram's bins."""

    frames: int = 0
    dropped: int = 0
    errors: int = 0
    events: int = 0
    failovers: int = 0
    period_s: float = 0.0
    reports: int = 0
    infer_ms: Histogram = field(default_factory=Histogram)
    latency_ms: Histogram = field(default_factory=Histogram)

    @property
    def error_ratio(self) -> float:
        """The ratio of failed frames to all frames; 0 without frames."""
        return self.errors / max(self.frames, self.errors, 1)


@dataclass(frozen=True)
class Point:
    """A step of a chart, from ``at_ms`` on: frames a second, quantiles in milliseconds, counts."""

    at_ms: int
    fps: float
    frames: int
    dropped: int
    errors: int
    events: int
    infer_p50_ms: float
    infer_p95_ms: float
    infer_p99_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    sensors: dict[str, float]


@dataclass(frozen=True)
class Event:
    """Something that happened on a device; ``kind`` is the record's tag."""

    id: int
    device: str
    at_ms: int
    kind: str
    body: dict[str, Any]


class Metrics:
    """Reads the metric reports and events of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def measured(
        self, model: str, version: str, *, devices: Sequence[str] | None = None, since_ms: int = 0
    ) -> dict[str, Measured]:
        """Return the sum of a model version's reports since a time, by device.

        Args:
            model: Its name.
            version: Its version.
            devices: Only these; None for all.
            since_ms: Reports made at or after this Unix time.

        Returns:
            The sums by device; devices without a report are not in it.
        """
        chosen = None if devices is None else set(devices)
        by_device: dict[str, Measured] = {}
        with self._database.read() as sql:
            for row in sql.execute(
                "SELECT * FROM metric WHERE model = ? AND version = ? AND at_ms >= ?",
                (model, version, since_ms),
            ):
                if chosen is None or row["device"] in chosen:
                    _add(by_device.setdefault(row["device"], Measured()), row)
        return by_device

    def series(
        self,
        device: str,
        *,
        since_ms: int,
        until_ms: int,
        step_ms: int,
        pipeline: str = "",
    ) -> list[Point]:
        """Return a chart of one device's reports (of one pipeline, or of all joined).

        At most 1000 points: the step grows to keep that. Steps without a report are left out.
        """
        step_ms = max(step_ms, 1000, -(-(until_ms - since_ms) // MAX_POINTS))
        sums: dict[int, Measured] = {}
        rates: dict[int, dict[str, Measured]] = {}
        sensors: dict[int, dict[str, float]] = {}
        with self._database.read() as sql:
            for row in sql.execute(
                "SELECT * FROM metric WHERE device = ? AND at_ms >= ? AND at_ms < ?"
                " AND (? = '' OR pipeline = ?) ORDER BY at_ms",
                (device, since_ms, until_ms, pipeline, pipeline),
            ):
                at_ms = row["at_ms"] - row["at_ms"] % step_ms
                _add(sums.setdefault(at_ms, Measured()), row)
                rate = rates.setdefault(at_ms, {}).setdefault(row["pipeline"], Measured())
                rate.frames += row["frames"]
                rate.period_s += row["period_s"]
                sensors.setdefault(at_ms, {}).update(json.loads(row["sensors"]))
        return [_point(at_ms, sums[at_ms], rates[at_ms].values(), sensors[at_ms]) for at_ms in sums]

    def pipelines(self, device: str, since_ms: int) -> list[str]:
        """Return the names of the pipelines that a device reported on since a time."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT DISTINCT pipeline FROM metric WHERE device = ? AND at_ms >= ? ORDER BY pipeline",
                (device, since_ms),
            ).fetchall()
        return [row["pipeline"] for row in rows]

    def events(
        self,
        *,
        device: str = "",
        kinds: Iterable[str] = (),
        trace_id: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> list[Event]:
        """Return what happened, the newest first; ``before`` is the id of the last one seen.

        ``trace_id``: only the events of a trace; no other kind has one.
        """
        parts, values = _of_trace(device, trace_id) if trace_id else _newest(device, sorted(set(kinds)))
        values.update(before=1 << 62 if before is None else before, limit=min(max(limit, 1), 500))
        query = f"SELECT {_EVENT} AS document FROM ({parts}) ORDER BY id DESC LIMIT :limit"  # noqa: S608 - fixed texts, bound values
        with self._database.read() as sql:
            return documents(sql, Event, query, values)


def _of_trace(device: str, trace_id: str) -> tuple[str, dict[str, object]]:
    """Return a query of a trace's events and its values; all devices have an index for it."""
    where = "kind = 'event' AND json_extract(body, '$.trace_id') = :trace" + " AND +device = :device" * bool(
        device
    )
    return f"SELECT * FROM event WHERE {where} AND +id < :before", {"device": device, "trace": trace_id}  # noqa: S608 - fixed texts, bound values


def _newest(device: str, kinds: Sequence[str]) -> tuple[str, dict[str, object]]:
    """Return a query of the newest events and its values.

    Without a device, one part for each kind: SQLite has no order over several kinds, and read every event
    of 10,000 devices for the newest twenty.
    """
    values: dict[str, object] = {"device": device, **{f"kind{n}": kind for n, kind in enumerate(kinds)}}
    names = [f":{name}" for name in values if name != "device"]
    if device:
        wheres = ["device = :device" + (f" AND +kind IN ({', '.join(names)})" if kinds else "")]
    else:
        wheres = [f"kind = {name}" for name in names] or ["true"]
    each = "SELECT * FROM (SELECT * FROM event WHERE {} AND id < :before ORDER BY id DESC LIMIT :limit)"
    return " UNION ALL ".join(map(each.format, wheres)), values


def _add(total: Measured, row: sqlite3.Row) -> None:
    total.reports += 1
    total.period_s += row["period_s"]
    for name in ("frames", "dropped", "errors", "events", "failovers"):
        setattr(total, name, getattr(total, name) + row[name])
    for name, histogram in (("infer_ms", total.infer_ms), ("latency_ms", total.latency_ms)):
        if row[name]:
            histogram.merge(Histogram.from_wire(msgspec.json.decode(row[name], type=Sketch)))


def _point(at_ms: int, total: Measured, pipelines: Iterable[Measured], sensors: dict[str, float]) -> Point:
    """Return a step of a chart; pipelines run side by side, so their rates add up."""
    infer, latency = total.infer_ms, total.latency_ms
    return Point(
        at_ms=at_ms,
        fps=sum(pipeline.frames / pipeline.period_s for pipeline in pipelines if pipeline.period_s),
        frames=total.frames,
        dropped=total.dropped,
        errors=total.errors,
        events=total.events,
        infer_p50_ms=infer.quantile(0.5),
        infer_p95_ms=infer.quantile(0.95),
        infer_p99_ms=infer.quantile(0.99),
        latency_p50_ms=latency.quantile(0.5),
        latency_p95_ms=latency.quantile(0.95),
        latency_p99_ms=latency.quantile(0.99),
        sensors=sensors,
    )
