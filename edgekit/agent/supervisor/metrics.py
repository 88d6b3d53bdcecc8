"""Sums the workers' progress messages: for metric reports, and to judge a trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.agent.ipc import Progress, Running, add_label
from edgekit.core.ports import Clock
from edgekit.core.sketch import Histogram, Sketch
from edgekit.core.wire import MetricReport
from edgekit.update.guards import TrialStats

MAX_BOOKS = 128
IDLE_REPORT_S = 3600.0
"""A pipeline without a frame is reported once, and then this often: each report is a write to the flash."""
_RUNNING = ("model", "version", "variant", "backend", "accelerator")


class Totals:
    """Sums of progress messages."""

    def __init__(self) -> None:
        self.period_s = 0.0
        self.counts: dict[str, Any] = dict.fromkeys(("frames", "dropped", "errors", "events", "failovers"), 0)
        self.items = 0
        self.labels: dict[str, int] = {}
        self.infer, self.latency = Histogram(), Histogram()
        self.steady, self.slowest = Histogram(), Histogram()
        """Inference times without the interval of the greatest 99th percentile, and those of it."""

    def add(self, progress: Progress) -> None:
        """Add one progress message."""
        self.period_s += progress.period_s
        for key in self.counts:
            self.counts[key] += getattr(progress, key)
        self.items += progress.items
        for label, number in progress.labels.items():
            add_label(self.labels, label, number)
        if progress.infer_ms is not None:
            times = Histogram.from_wire(progress.infer_ms)
            if times.quantile(0.99) > self.slowest.quantile(0.99):
                times, self.slowest = self.slowest, times
            self.steady.merge(times)
        for histogram, sketch in ((self.infer, progress.infer_ms), (self.latency, progress.latency_ms)):
            if sketch is not None:
                histogram.merge(Histogram.from_wire(sketch))

    @property
    def is_idle(self) -> bool:
        """Whether nothing happened."""
        return not self.items and not any(self.counts.values())

    def trial_stats(self, crashes: int = 0) -> TrialStats:
        """Return the totals as the guards of a trial need them."""
        errors = self.counts["errors"]
        return TrialStats(
            frames=self.counts["frames"] + errors,
            errors=errors,
            crashes=crashes,
            predictions=self.items,
            infer_ms=_sketch(self.infer),
            steady_ms=_sketch(self.steady),
        )


def _sketch(histogram: Histogram) -> Sketch | None:
    return histogram.to_wire() if histogram.count else None


def stats_of(seconds: Iterable[Progress]) -> TrialStats | None:
    """Return the totals of some progress messages, or None if they contain no frame."""
    totals = Totals()
    for progress in seconds:
        totals.add(progress)
    stats = totals.trial_stats()
    return stats if stats.frames else None


_Key = tuple[str, str, str]


class Books:
    """Totals of each pipeline and variant; ``close`` returns them as reports and starts a new period.

    Periods without a frame are reported when they begin, and then every ``IDLE_REPORT_S``.

    Beyond ``MAX_BOOKS`` variants in one period, progress is only counted, in ``refused``.
    """

    def __init__(self) -> None:
        self._books: dict[_Key, tuple[Running, Totals]] = {}
        self._idle_s: dict[_Key, float] = {}
        """How long each has been idle since its last report."""
        self.refused = 0

    def add(self, pipeline: str, progress: Progress) -> None:
        """Add one progress message of a pipeline, or of ``pipeline/stage``."""
        key = (pipeline, progress.running.digest, progress.running.variant)
        if key not in self._books and len(self._books) >= MAX_BOOKS:
            self.refused += 1
            return
        self._books.setdefault(key, (progress.running, Totals()))[1].add(progress)

    def close(self, clock: Clock, sensors: Mapping[str, float]) -> list[MetricReport]:
        """Return one report per variant, and start a new period."""
        books = {key: book for key, book in self._books.items() if not self._may_wait(key, book[1])}
        self._idle_s = {key: self._idle_s[key] for key in self._books if key in self._idle_s}
        self._books = {}
        stamp: dict[str, Any] = {"mono_ns": clock.monotonic_ns(), "unix_ms": clock.unix_ms()}
        return [
            MetricReport(
                **stamp,
                pipeline=pipeline,
                **{name: getattr(running, name) for name in _RUNNING},
                period_s=round(totals.period_s, 3),
                **totals.counts,
                infer_ms=_sketch(totals.infer),
                latency_ms=_sketch(totals.latency),
                labels=totals.labels,
                total=totals.items,
                sensors=dict(sensors),
            )
            for (pipeline, _, _), (running, totals) in books.items()
        ]

    def _may_wait(self, key: _Key, totals: Totals) -> bool:
        if not totals.is_idle:
            self._idle_s.pop(key, None)
            return False
        is_known = key in self._idle_s
        self._idle_s[key] = self._idle_s.get(key, 0.0) + totals.period_s
        if is_known and self._idle_s[key] < IDLE_REPORT_S:
            return True
        self._idle_s[key] = 0.0
        return False
