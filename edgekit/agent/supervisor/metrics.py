"""Sums the workers' progress messages into one metric report per pipeline, version and variant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.agent.ipc import Progress, Running
from edgekit.core.ports import Clock
from edgekit.core.sketch import Histogram
from edgekit.core.wire import MetricReport
from edgekit.update.guards import TrialStats

MAX_LABELS = 64
MAX_BOOKS = 128


class Book:
    """Totals of one pipeline on one variant in one period."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.period_s = 0.0
        self.counts: dict[str, Any] = dict.fromkeys(("frames", "dropped", "errors", "events", "failovers"), 0)
        self.total = 0
        self.labels: dict[str, int] = {}
        self.infer, self.latency = Histogram(), Histogram()

    def add(self, progress: Progress) -> None:
        """Add one progress message."""
        self.period_s += progress.period_s
        for key in self.counts:
            self.counts[key] += getattr(progress, key)
        self.total += progress.items
        for label, number in progress.labels.items():
            known = label in self.labels or len(self.labels) < MAX_LABELS
            self.labels[label if known else "*"] = self.labels.get(label if known else "*", 0) + number
        for histogram, sketch in ((self.infer, progress.infer_ms), (self.latency, progress.latency_ms)):
            if sketch is not None:
                histogram.merge(Histogram.from_wire(sketch))


class Books:
    """Totals of every pipeline; ``close`` returns them as reports and starts a new period.

    Beyond ``MAX_BOOKS`` variants in one period, progress is only counted, in ``refused``.
    """

    def __init__(self) -> None:
        self._books: dict[tuple[str, str, str], Book] = {}
        self.refused = 0

    def add(self, pipeline: str, progress: Progress) -> None:
        """Add one progress message of a pipeline."""
        key = (pipeline, progress.running.digest, progress.running.variant)
        book = self._books.get(key)
        if book is None:
            if len(self._books) >= MAX_BOOKS:
                self.refused += 1
                return
            book = self._books[key] = Book(progress.running)
        book.add(progress)

    def close(self, clock: Clock, sensors: Mapping[str, float]) -> list[MetricReport]:
        """Return one report per variant, and start a new period."""
        books, self._books = self._books, {}
        stamp = {"mono_ns": clock.monotonic_ns(), "unix_ms": clock.unix_ms()}
        return [_report(key[0], book, stamp, sensors) for key, book in books.items()]


def _report(
    pipeline: str, book: Book, stamp: Mapping[str, Any], sensors: Mapping[str, float]
) -> MetricReport:
    running = book.running
    return MetricReport(
        **stamp,
        pipeline=pipeline,
        model=running.model,
        version=running.version,
        variant=running.variant,
        backend=running.backend,
        accelerator=running.accelerator,
        period_s=round(book.period_s, 3),
        **book.counts,
        infer_ms=book.infer.to_wire() if book.infer.count else None,
        latency_ms=book.latency.to_wire() if book.latency.count else None,
        labels=book.labels,
        total=book.total,
        sensors=dict(sensors),
    )


class StatsSum:
    """Totals of one version over all its pipelines, as the rollout guards need them."""

    def __init__(self) -> None:
        self._frames = self._errors = self._items = 0
        self._infer = Histogram()
        self.crashes = 0

    def add(self, progress: Progress) -> None:
        """Add one progress message."""
        self._frames += progress.frames + progress.errors
        self._errors += progress.errors
        self._items += progress.items
        if progress.infer_ms is not None:
            self._infer.merge(Histogram.from_wire(progress.infer_ms))

    def stats(self) -> TrialStats:
        """Return the totals."""
        return TrialStats(
            frames=self._frames,
            errors=self._errors,
            crashes=self.crashes,
            predictions=self._items,
            infer_ms=self._infer.to_wire() if self._infer.count else None,
        )


def stats_of(seconds: Iterable[Progress]) -> TrialStats | None:
    """Return the totals of some progress messages, or None if they contain no frame."""
    total = StatsSum()
    for progress in seconds:
        total.add(progress)
    stats = total.stats()
    return stats if stats.frames else None
