"""The last minute's reports of each device, kept in memory as they arrive.

Lists of thousands of devices sort by them, and the overview sums them up, without a query of the metrics.
After a restart they are read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch

FRESH_MS = 60_000
"""A pipeline without a report for this long is left out."""
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
class _Device:
    condition: str = ""
    pipelines: dict[str, tuple[int, float, Sketch | None]] = field(default_factory=dict)
    """By pipeline: when it reported (Unix ms), frames a second, histogram of inference times."""


class Recent:
    """The newest reports of all devices. Thread-safe; its size is bounded by the number of devices."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._devices: dict[str, _Device] = {}
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
        with self._lock:
            self._devices.setdefault(device, _Device()).pipelines[pipeline] = (at_ms, fps, infer)

    def condition(self, device: str) -> str:
        """Return ``failed``, ``updating``, or an empty text if neither was reported."""
        with self._lock:
            known = self._devices.get(device)
            return known.condition if known else ""

    def pace(self, device: str) -> Pace:
        """Return the pace of one device."""
        return _pace(self._fresh([device]))

    def paces(self) -> dict[str, Pace]:
        """Return the pace of each device that reported in the last minute."""
        made_ms, paces_now = self._paces
        if self._now_ms() - made_ms >= HOLD_MS:
            with self._lock:
                names = list(self._devices)
            paces_now = {name: _pace(fresh) for name in names if (fresh := self._fresh([name]))}
            self._paces = (self._now_ms(), paces_now)
        return paces_now

    def everyone(self) -> Pace:
        """Return the pace of all devices together."""
        made_ms, total = self._everyone
        if self._now_ms() - made_ms >= HOLD_MS:
            with self._lock:
                names = list(self._devices)
            total = self.total(names)
            self._everyone = (self._now_ms(), total)
        return total

    def total(self, devices: Iterable[str]) -> Pace:
        """Return the pace of several devices: the sum of rates, and the percentile of all inferences."""
        return _pace(self._fresh(devices))

    def _fresh(self, devices: Iterable[str]) -> list[tuple[float, Sketch | None]]:
        oldest_ms = self._now_ms() - FRESH_MS
        with self._lock:
            return [
                (fps, infer)
                for device in devices
                if device in self._devices
                for at_ms, fps, infer in self._devices[device].pipelines.values()
                if at_ms >= oldest_ms
            ]


def condition(reported: wire.Reported) -> str:
    """Return the condition to show first of a reported state: ``failed``, ``updating`` or empty.

    >>> condition(wire.Reported(boot="b", version=1, desired=0))
    ''
    """
    if any(pipeline.state == "failed" for pipeline in reported.pipelines.values()):
        return "failed"
    return "updating" if any(update.state not in IDLE for update in reported.updates.values()) else ""


def _pace(fresh: Sequence[tuple[float, Sketch | None]]) -> Pace:
    infer = Histogram()
    for _, sketch in fresh:
        if sketch is not None:
            infer.merge(Histogram.from_wire(sketch))
    return Pace(sum(fps for fps, _ in fresh), infer.quantile(0.95))
