"""What a pipeline's last frames say of its latency, for ``Budget``; pure."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

KEPT_S, KEPT_FRAMES, MIN_FRAMES = 10.0, 100, 8
"""How much is kept (the larger counts), and how few frames show anything."""
LATE_RATIO = 0.05


class Seen(NamedTuple):
    """What a span of time shows, in milliseconds.

    The 95th percentile of the latency, the median latency, the median of the work on a frame (the latency
    without the waiting), and the source's interval.
    """

    latency_ms: float
    median_ms: float
    work_ms: float
    interval_ms: float

    def above(self, gain: float, rate: int) -> float:
        """Return the latency to expect at so many times the work and another step of the rate.

        What the machine adds to a few frames is no longer with more work. A frame waits while the one
        before it is in work: at most one interval, since the latest wins.
        """
        work_ms, interval_ms = self.work_ms * gain, self.interval_ms * 2**rate
        waits_ms = interval_ms if work_ms > interval_ms else 0.0
        return work_ms + max(self.latency_ms - self.work_ms, waits_ms)


class _Frame(NamedTuple):
    captured_s: float
    seq: int
    latency_ms: float
    work_ms: float


class Frames:
    """The frames of the last ``KEPT_S`` since the last change, but at least ``KEPT_FRAMES``."""

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque()
        self._since_s = -math.inf

    def begin(self, now_s: float) -> None:
        """Forget all frames, and do not count those captured before now."""
        self._frames.clear()
        self._since_s = now_s

    def add(self, captured_s: float, seq: int, latency_ms: float, work_ms: float) -> None:
        """Add a frame that reached the sinks."""
        if captured_s < self._since_s:
            return
        frames = self._frames
        frames.append(_Frame(captured_s, seq, latency_ms, work_ms))
        while len(frames) > KEPT_FRAMES and frames[0].captured_s < captured_s - KEPT_S:
            frames.popleft()

    def seen(self, now_s: float, span_s: float) -> Seen | None:
        """Return what the frames of the last seconds show; None while there are too few."""
        frames = list(self._frames)
        begin = sum(frame.captured_s < now_s - span_s for frame in frames)
        frames = frames[max(0, min(begin, len(frames) - MIN_FRAMES)) :]
        if len(frames) < MIN_FRAMES or frames[-1].captured_s < now_s - 2 * span_s:
            return None
        latencies = sorted(frame.latency_ms for frame in frames)
        works = sorted(frame.work_ms for frame in frames)
        middle, first, last = (len(frames) - 1) // 2, frames[0], frames[-1]
        interval_ms = 1e3 * (last.captured_s - first.captured_s) / max(1, last.seq - first.seq)
        return Seen(latencies[int(0.95 * (len(frames) - 1))], latencies[middle], works[middle], interval_ms)

    def are_late(self, limit_ms: float) -> bool:
        """Return whether more frames are late than 95 % in time allow in all that is kept.

        It is a question of that many frames even while fewer are known, so that a few that are late by
        chance right after a change are not taken for the rule.
        """
        frames = self._frames
        late = sum(frame.latency_ms > limit_ms for frame in frames)
        interval_s = (frames[-1].captured_s - frames[0].captured_s) / max(1, len(frames) - 1)
        return late > LATE_RATIO * max(KEPT_S / max(interval_s, 1e-3), KEPT_FRAMES)
