"""A pipeline's counters in a file for the textfile collector of Prometheus's node_exporter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgekit.base.exposition import Buckets, family, sample
from edgekit.base.files import write_durably
from edgekit.core.errors import StorageError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.place_metrics import MAX_SERIES, place_lines
from edgekit.pipeline.sinks import SinkContext


class PrometheusOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a ``.prom`` file, written whole each ``every_s`` seconds."""

    path: str
    every_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 15.0

    def problems(self) -> Iterator[str]:
        """Report a name that the collector does not read."""
        if Path(self.path).suffix != ".prom":
            yield f"path: want a file name that ends in .prom, got {self.path!r}"


class PrometheusSink:
    """Counts since its start; Prometheus knows a counter that begins again.

    Of each family there are at most ``MAX_SERIES``; further labels are counted together, as ``*``.

    Raises:
        StorageError: The file cannot be written.
    """

    Options = PrometheusOptions

    def __init__(self, options: PrometheusOptions, context: SinkContext) -> None:
        self._path, self._every_s = context.path(options.path), options.every_s
        self._pipeline = context.pipeline
        self._frames: Counter[tuple[str, ...]] = Counter()
        self._events: Counter[tuple[str, ...]] = Counter()
        self._items: dict[str, int] = {}
        self._zones: dict[str, dict[str, Any]] = {}
        self._lines_crossed: dict[str, dict[str, Counter[str]]] = {}
        self._latency = Buckets()
        self._last_s = 0.0
        self._written_s = time.monotonic()
        self._write()

    def write(self, result: Result) -> None:
        """Count a frame, and write the file where it is time."""
        self._frames[_bounded((result.model, result.version), self._frames)] += 1
        for event in result.events:
            where = getattr(event, "line", "") or getattr(event, "zone", "")
            self._events[_bounded((event.kind, event.label, where), self._events)] += 1
            self._count(event)
        counts = result.prediction.counts()
        # a label that was seen once stays, at 0
        self._items = {**dict.fromkeys(self._items, 0), **counts}
        self._items = dict(list(self._items.items())[:MAX_SERIES])
        self._latency.add(result.stage_ms.get("latency", 0.0) / 1e3)
        self._last_s = result.frame.captured_unix_ms / 1e3
        if time.monotonic() - self._written_s >= self._every_s:
            self._write()

    def _count(self, event: Any) -> None:
        """Count what an object did in a zone or on a line."""
        if event.kind == "crossed":
            self._lines_crossed.setdefault(event.line, {}).setdefault(event.direction, Counter())[
                event.label
            ] += 1
        elif event.kind in ("entered", "left"):
            empty: dict[str, Any] = {"entered": Counter(), "left": Counter(), "visits": set()}
            zone = self._zones.setdefault(event.zone, empty)
            zone[event.kind][event.label] += 1
            (zone["visits"].add if event.kind == "entered" else zone["visits"].discard)(event.id)

    def _places(self) -> dict[str, Any]:
        zones = {name: {**zone, "inside": len(zone["visits"])} for name, zone in self._zones.items()}
        return {"lines": self._lines_crossed, "zones": zones}

    def _write(self) -> None:
        self._written_s = time.monotonic()
        try:
            write_durably(self._path, "".join(f"{line}\n" for line in self._lines()).encode())
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause

    def _lines(self) -> Iterator[str]:
        own = {"pipeline": self._pipeline}
        frames, events, items = "edgekit_frames_total", "edgekit_events_total", "edgekit_items"
        last, latency = "edgekit_last_frame_timestamp_seconds", "edgekit_latency_seconds"
        yield from family(
            frames,
            "counter",
            "Frames that reached the sinks.",
            [sample(frames, {**own, "model": m, "version": v}, n) for (m, v), n in self._frames.items()],
        )
        yield from family(
            events,
            "counter",
            "Events, by kind, label, and line or zone.",
            [
                sample(events, {**own, "kind": kind, "label": label, "place": place}, number)
                for (kind, label, place), number in self._events.items()
            ],
        )
        yield from family(
            items,
            "gauge",
            "Items in the last frame, by label.",
            [sample(items, {**own, "label": label}, number) for label, number in self._items.items()],
        )
        yield from place_lines({self._pipeline: self._places()})
        yield from family(
            last, "gauge", "When the last frame was captured.", [sample(last, own, self._last_s)]
        )
        yield from family(
            latency, "histogram", "From capture to the sinks.", list(self._latency.lines(latency, own))
        )

    def close(self) -> None:
        """Write the last counts; safe to call twice."""
        self._write()


def _bounded(key: tuple[str, ...], counted: Counter[tuple[str, ...]]) -> tuple[str, ...]:
    return key if key in counted or len(counted) < MAX_SERIES else ("*",) * len(key)
