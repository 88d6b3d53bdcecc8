"""The last minute's reports of each device, kept in memory as they arrive.

Lists of thousands of devices sort by them, and the overview sums them up, without a query of the metrics.
After a restart they are read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch

FRESH_MS = 60_000
"""A pipeline without a report for this long is left out."""
SLOT_MS = 5000
"""The inference times of all devices are summed up in slots of this length as they arrive."""
HOLD_MS = 2000
"""Sums over all devices are reused for this long, however many pages need them."""
IDLE = ("", "IDLE")
"""States of the update machine in which there is no update."""


@dataclass(frozen=True)
class Pace:
    """Frames per second, and the 95th percentile of inference in milliseconds; 0 if unknown."""

    fps: float = 0.0
    p95_ms: float = 0.0


@dataclass
class _Latest:
    """The newest report of a pipeline."""

    at_ms: int
    fps: float
    infer: Sketch | None
    p95_ms: float


@dataclass
class _Device:
    condition: str = ""
    pipelines: dict[str, _Latest] = field(default_factory=dict)


class Recent:
    """The newest reports of all devices. Thread-safe; its size is bounded by the number of devices."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._devices: dict[str, _Device] = {}
        self._slots: dict[int, Histogram] = {}
        """Inference times of all devices, by when they arrived."""
        self._paces: tuple[int, dict[str, Pace]] = (-HOLD_MS, {})
        self._everyone: tuple[int, Pace] = (-HOLD_MS, Pace())

    def take_reported(self, device: str, reported: wire.Reported) -> None:
        """Store a device's reported state."""
        with self._lock:
            known = self._devices.setdefault(device, _Device())
            known.condition = condition(reported)
            known.pipelines = {
                name: value for name, value in known.pipelines.items() if name in reported.pipelines
            }

    def take_records(self, device: str, records: Sequence[wire.Record]) -> None:
        """Store the metric reports among committed records."""
        for record in records:
            if isinstance(record, wire.MetricReport):
                self.take(
                    device, record.pipeline, self._now_ms(), record.period_s, record.frames, record.infer_ms
                )

    def take(
        self, device: str, pipeline: str, at_ms: int, period_s: float, frames: int, infer: Sketch | None
    ) -> None:
        """Store one report."""
        fps = frames / period_s if period_s > 0 else 0.0
        histogram = None if infer is None else Histogram.from_wire(infer)
        # as it arrives: a list that is sorted by it would else hold everything up for 10,000 of them at once
        latest = _Latest(at_ms, fps, infer, 0.0 if histogram is None else histogram.quantile(0.95))
        with self._lock:
            self._devices.setdefault(device, _Device()).pipelines[pipeline] = latest
            if histogram is not None:
                self._slots.setdefault(at_ms // SLOT_MS, Histogram()).merge(histogram)
            if len(self._slots) > 2 * FRESH_MS // SLOT_MS:
                self._forget()

    def _forget(self) -> None:
        oldest = (self._now_ms() - FRESH_MS) // SLOT_MS
        self._slots = {slot: times for slot, times in self._slots.items() if slot >= oldest}

    def condition(self, device: str) -> str:
        """Return ``failed``, ``updating``, or an empty text if neither was reported."""
        with self._lock:
            known = self._devices.get(device)
            return known.condition if known else ""

    def conditions(self) -> dict[str, list[str]]:
        """Return the devices that reported ``failed`` or ``updating``, by that word."""
        words: dict[str, list[str]] = {}
        with self._lock:
            for name, known in self._devices.items():
                if known.condition:
                    words.setdefault(known.condition, []).append(name)
        return words

    def pace(self, device: str) -> Pace:
        """Return the pace of one device."""
        oldest_ms = self._now_ms() - FRESH_MS
        with self._lock:
            known = self._devices.get(device)
            return _pace(known, oldest_ms) if known else Pace()

    def paces(self) -> dict[str, Pace]:
        """Return the pace of each device that reported in the last minute."""
        made_ms, paces = self._paces
        if self._now_ms() - made_ms >= HOLD_MS:
            oldest_ms = self._now_ms() - FRESH_MS
            with self._lock:
                devices = list(self._devices.items())
            paces = {name: pace for name, known in devices if (pace := _pace(known, oldest_ms)).fps}
            self._paces = (self._now_ms(), paces)
        return paces

    def everyone(self) -> Pace:
        """Return the pace of all devices together: the percentile is that of all inferences."""
        made_ms, total = self._everyone
        if self._now_ms() - made_ms >= HOLD_MS:
            oldest_ms = self._now_ms() - FRESH_MS
            times = Histogram()
            with self._lock:
                devices = list(self._devices.values())
                for slot, part in self._slots.items():
                    if slot >= oldest_ms // SLOT_MS:
                        times.merge(part)
            fps = sum(sum(latest.fps for latest in _fresh(known, oldest_ms)) for known in devices)
            total = Pace(fps, times.quantile(0.95))
            self._everyone = (self._now_ms(), total)
        return total


def condition(reported: wire.Reported) -> str:
    """Return the condition to show first of a reported state: ``failed``, ``updating`` or empty.

    >>> condition(wire.Reported(boot="b", version=1, desired=0))
    ''
    """
    if any(pipeline.state == "failed" for pipeline in reported.pipelines.values()):
        return "failed"
    return "updating" if any(update.state not in IDLE for update in reported.updates.values()) else ""


def _fresh(device: _Device, oldest_ms: int) -> list[_Latest]:
    return [latest for latest in list(device.pipelines.values()) if latest.at_ms >= oldest_ms]


def _pace(device: _Device, oldest_ms: int) -> Pace:
    """Return a device's pace; of several pipelines the percentile of all inferences."""
    fresh = _fresh(device, oldest_ms)
    if len(fresh) == 1:
        (latest,) = fresh
        return Pace(latest.fps, latest.p95_ms)
    times = Histogram()
    for latest in fresh:
        if latest.infer is not None:
            times.merge(Histogram.from_wire(latest.infer))
    return Pace(sum(latest.fps for latest in fresh), times.quantile(0.95))
