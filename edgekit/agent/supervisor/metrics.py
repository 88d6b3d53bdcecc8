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


class Books:
    """Totals of each pipeline and variant; ``close`` returns them as reports and starts a new period.

    Beyond ``MAX_BOOKS`` variants in one period, progress is only counted, in ``refused``.
    """

    def __init__(self) -> None:
        self._books: dict[tuple[str, str, str], tuple[Running, Totals]] = {}
        self.refused = 0

    def add(self, pipeline: str, progress: Progress) -> None:
        """Add one progress message of a pipeline."""
        key = (pipeline, progress.running.digest, progress.running.variant)
        if key not in self._books and len(self._books) >= MAX_BOOKS:
            self.refused += 1
            return
        self._books.setdefault(key, (progress.running, Totals()))[1].add(progress)

    def close(self, clock: Clock, sensors: Mapping[str, float]) -> list[MetricReport]:
        """Return one report per variant, and start a new period."""
        books, self._books = self._books, {}
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
