"""The counters of a running pipeline, in bounded memory."""

from __future__ import annotations

import threading
from typing import Any

from edgekit.core.ports import Frame
from edgekit.core.sketch import Histogram

STAGES = ("capture", "pre", "infer", "post", "sink")


class Tally:
    """Counters and histograms of one run, written by the loop's threads, read by any.

    ``captured`` is the last frame's ``seq`` + 1, which includes the source's own losses; at the end
    ``captured == processed + dropped + failed + skipped``.
    """

    def __init__(self) -> None:
        self.captured = 0
        self.processed = 0
        self.dropped = 0
        self.failed = 0
        self.skipped = 0
        self.sink_errors = 0
        self.stage_errors = 0
        self.events = 0
        self.failovers = 0
        self.first_ns = 0
        self.last_ns = 0
        self._last_seq = -1
        self._lock = threading.Lock()
        self._latency = Histogram()
        self._stages = {stage: Histogram() for stage in STAGES}

    def took(self, frame: Frame) -> None:
        """Count the frames that were lost before this one."""
        self.dropped += max(0, frame.seq - self._last_seq - 1)
        self._last_seq = max(frame.seq, self._last_seq)
        self.first_ns = self.first_ns or frame.captured_ns

    def finished(self, frame: Frame, done_ns: int, stage_ms: dict[str, float]) -> None:
        """Count a frame that reached the sinks."""
        with self._lock:
            self.processed += 1
            self.last_ns = done_ns
            self._latency.add((done_ns - frame.captured_ns) / 1e6)
            for stage, histogram in self._stages.items():
                if stage in stage_ms:  # a frame that no model looked at has no inference
                    histogram.add(stage_ms[stage])

    def left_over(self) -> None:
        """Count as dropped what was captured and never taken, at the end of a run."""
        self.dropped += max(0, self.captured - 1 - self._last_seq)
        self._last_seq = max(self.captured - 1, self._last_seq)

    def document(self) -> dict[str, Any]:
        """Return the counts as ``edgekit run --json`` prints them."""
        names = ("captured", "processed", "dropped", "failed", "skipped")
        with self._lock:
            elapsed_s = (self.last_ns - self.first_ns) / 1e9
            return {
                "frames": {name: getattr(self, name) for name in names},
                "fps": round(self.processed / elapsed_s, 2) if self.processed and elapsed_s > 0 else 0.0,
                "latency_ms": {f"p{percent}": self._ms(self._latency, percent) for percent in (50, 95, 99)},
                "stage_ms": {stage: self._ms(histogram, 50) for stage, histogram in self._stages.items()},
                "events": self.events,
                "errors": self.failed + self.sink_errors + self.stage_errors,
                "failovers": self.failovers,
            }

    def _ms(self, histogram: Histogram, percent: int) -> float | None:
        return round(histogram.quantile(percent / 100), 3) if histogram.count else None
