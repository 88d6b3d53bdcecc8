"""The last minute's reports of each device, kept in memory as they arrive.

Lists of thousands of devices sort by them, and the overview sums them up, without a query of the metrics.
After a restart they are read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, NamedTuple

import msgspec

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch

FRESH_MS = 60_000
"""A pipeline without a report for this long is left out."""
SLOT_MS = 5000
"""The inference times of all devices are summed up in slots of this length as they arrive."""
HOLD_MS = 2000
"""An order of all devices is used for this long, however many pages need it."""
IDLE = ("", "IDLE")
"""States of the update machine in which there is no update."""
Measure = Literal["fps", "p95"]
"""What lists are sorted by: frames a second, or the 95th percentile of inference."""


class Pace(NamedTuple):
    """Frames per second, and the 95th percentile of inference in milliseconds; 0 if unknown."""

    fps: float = 0.0
    p95_ms: float = 0.0


_SILENT = Pace()


@dataclass(slots=True)
class _Latest:
    """The newest report of a pipeline; ``infer`` are its inference times, a ``Sketch`` in MessagePack."""

    at_ms: int
    fps: float
    infer: bytes
    p95_ms: float


@dataclass(slots=True)
class _Device:
    condition: str = ""
    pipelines: dict[str, _Latest] = field(default_factory=dict)


@dataclass(slots=True)
class _Slot:
    """What arrived within five seconds: inference times, and the rate of what is still the newest report."""

    times: Histogram = field(default_factory=Histogram)
    fps: float = 0.0


class Recent:
    """The newest reports of all devices. Thread-safe; its size is bounded by the number of devices."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._devices: dict[str, _Device] = {}
        self._conditions: dict[str, dict[str, None]] = {"failed": {}, "updating": {}}
        """The devices of each condition."""
        self._slots: dict[int, _Slot] = {}
        """Sums over all devices, by when the reports arrived."""
        self._ranking = threading.Lock()
        self._ranked: dict[Measure, tuple[int, list[str]]] = {}

    def take_reported(self, device: str, reported: wire.Reported) -> None:
        """Store a device's reported state."""
        with self._lock:
            known = self._devices.setdefault(device, _Device())
            for name in known.pipelines.keys() - reported.pipelines.keys():
                self._retire(known.pipelines.pop(name))
            self._conditions.get(known.condition, {}).pop(device, None)
            known.condition = condition(reported)
            self._conditions.get(known.condition, {})[device] = None

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
        """Store one report; of a later stage's model nothing, as its frames are the pipeline's."""
        if "/" in pipeline:
            return
        fps = frames / period_s if period_s > 0 else 0.0
        histogram = None if infer is None else Histogram.from_wire(infer)
        # as it arrives: a list that is sorted by it would else hold everything up for 10,000 of them at once
        p95_ms = 0.0 if histogram is None else histogram.quantile(0.95)
        latest = _Latest(at_ms, fps, msgspec.msgpack.encode(infer), p95_ms)
        with self._lock:
            pipelines = self._devices.setdefault(device, _Device()).pipelines
            if (earlier := pipelines.get(pipeline)) is not None:
                self._retire(earlier)
            pipelines[pipeline] = latest
            slot = self._slots.setdefault(at_ms // SLOT_MS, _Slot())
            slot.fps += fps
            if histogram is not None:
                slot.times.merge(histogram)
            if len(self._slots) > 2 * FRESH_MS // SLOT_MS:
                self._forget()

    def _retire(self, latest: _Latest) -> None:
        """Take a report that is not the newest any more out of the sum."""
        if (slot := self._slots.get(latest.at_ms // SLOT_MS)) is not None:
            slot.fps -= latest.fps

    def _forget(self) -> None:
        oldest = (self._now_ms() - FRESH_MS) // SLOT_MS
        self._slots = {at: slot for at, slot in self._slots.items() if at >= oldest}

    def condition(self, device: str) -> str:
        """Return ``failed``, ``updating``, or an empty text if neither was reported."""
        with self._lock:
            known = self._devices.get(device)
            return known.condition if known else ""

    def conditions(self) -> dict[str, list[str]]:
        """Return the devices that reported ``failed`` or ``updating``, by that word."""
        with self._lock:
            return {word: list(devices) for word, devices in self._conditions.items()}

    def pace(self, device: str) -> Pace:
        """Return the pace of one device."""
        oldest_ms = self._now_ms() - FRESH_MS
        with self._lock:
            known = self._devices.get(device)
            return _pace(known, oldest_ms) if known else Pace()

    def ranked(self, by: Measure) -> list[str]:
        """Return the devices that reported in the last minute, those with the least first.

        The order is that of up to two seconds ago, however many pages are sorted by it.
        """
        with self._ranking:
            made_ms, ranked = self._ranked.get(by, (-HOLD_MS, []))
            if self._now_ms() - made_ms >= HOLD_MS:
                ranked = self._rank(by)
                self._ranked[by] = self._now_ms(), ranked
        return ranked

    def _rank(self, by: Measure) -> list[str]:
        oldest_ms = self._now_ms() - FRESH_MS
        with self._lock:
            devices = list(self._devices.items())
        key = attrgetter("fps" if by == "fps" else "p95_ms")
        keyed = [(key(pace), name) for name, known in devices if (pace := _pace(known, oldest_ms)).fps]
        return [name for _, name in sorted(keyed)]

    def everyone(self) -> Pace:
        """Return the pace of all devices together: the percentile is that of all inferences.

        Of the reports of the last minute, and of up to five seconds before it.
        """
        oldest = (self._now_ms() - FRESH_MS) // SLOT_MS
        times, fps = Histogram(), 0.0
        with self._lock:
            for at, slot in self._slots.items():
                if at >= oldest:
                    times.merge(slot.times)
                    fps += slot.fps
        return Pace(fps, times.quantile(0.95))


def condition(reported: wire.Reported) -> str:
    """Return the condition to show first of a reported state: ``failed``, ``updating`` or empty.

    >>> condition(wire.Reported(boot="b", version=1, desired=0))
    ''
    """
    if any(pipeline.state == "failed" for pipeline in reported.pipelines.values()):
        return "failed"
    return "updating" if any(update.state not in IDLE for update in reported.updates.values()) else ""


def _pace(device: _Device, oldest_ms: int) -> Pace:
    """Return a device's pace; of several pipelines the percentile of all inferences."""
    known = tuple(device.pipelines.values())  # other threads add to it
    if len(known) == 1:  # nearly every device, ten thousand times for one order of all of them
        return Pace(known[0].fps, known[0].p95_ms) if known[0].at_ms >= oldest_ms else _SILENT
    fresh = [latest for latest in known if latest.at_ms >= oldest_ms]
    if len(fresh) == 1:
        return Pace(fresh[0].fps, fresh[0].p95_ms)
    times = Histogram()
    for latest in fresh:
        infer = msgspec.msgpack.decode(latest.infer, type=Sketch | None)
        if infer is not None:
            times.merge(Histogram.from_wire(infer))
    return Pace(sum(latest.fps for latest in fresh), times.quantile(0.95))
