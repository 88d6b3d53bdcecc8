"""How many frames the fleet processes a second, by model and version, summed up as reports arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgekit.core import wire

RECENT_MS = 120_000
"""Rates are over the reports of this long, or since the start."""
SLOT_MS = 5000
MAX_NAMES = 1000
"""Versions of models a slot; devices name them, so that the rest share one name."""
OTHER = ("other", "other")


@dataclass(frozen=True)
class Rate:
    """Frames, failed and dropped ones a second."""

    frames: float
    errors: float
    dropped: float


@dataclass
class _Slot:
    sums: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, report: wire.MetricReport) -> None:
        name = report.model, report.version
        if name not in self.sums and len(self.sums) >= MAX_NAMES:
            name = OTHER
        total = self.sums.setdefault(name, [0, 0, 0])
        for number, count in enumerate((report.frames, report.errors, report.dropped)):
            total[number] += count


class Rates:
    """The reports of the last two minutes. Thread-safe.

    In memory: to sum up the rows of 10,000 devices took half a second for each scrape.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms, self._began_ms = now_ms, now_ms()
        self._lock = threading.Lock()
        self._slots: dict[int, _Slot] = {}

    def take(self, _device: str, records: Sequence[wire.Record]) -> None:
        """Add the metric reports among committed records."""
        now = self._now_ms() // SLOT_MS
        with self._lock:
            for record in records:
                if isinstance(record, wire.MetricReport):
                    self._slots.setdefault(now, _Slot()).add(record)
            if len(self._slots) > 2 * RECENT_MS // SLOT_MS:
                self._slots = self._fresh()

    def by_version(self) -> dict[tuple[str, str], Rate]:
        """Return the rates by (model, version)."""
        seconds = max(min(RECENT_MS, self._now_ms() - self._began_ms), SLOT_MS) / 1000
        sums: dict[tuple[str, str], list[int]] = {}
        with self._lock:
            for slot in self._fresh().values():
                for name, counts in slot.sums.items():
                    before = sums.get(name, [0, 0, 0])
                    sums[name] = [a + b for a, b in zip(before, counts, strict=True)]
        return {name: Rate(*(total / seconds for total in totals)) for name, totals in sums.items()}

    def _fresh(self) -> dict[int, _Slot]:
        oldest = (self._now_ms() - RECENT_MS) // SLOT_MS
        return {at: slot for at, slot in self._slots.items() if at >= oldest}
