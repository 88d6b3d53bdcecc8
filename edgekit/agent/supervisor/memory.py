"""Notices a worker whose memory grows without end, before the kernel does."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgekit.agent.supervisor.worker_process import rss_mb

SAMPLE_S = 10.0
SETTLE_S = 120.0
"""After a start, or a change of what runs, memory grows for good reasons."""
LEAST_SAMPLES, MOST_SAMPLES = 30, 90
"""Five minutes are needed, fifteen are looked at."""
HORIZON_S = 600.0
LEAST_GROWTH_MB = 16.0
SURENESS = 4.0
"""Standard errors by which a slope must be above 0."""


class Slope(msgspec.Struct, frozen=True):
    """Growth a second in MiB, and its standard error."""

    mb_per_s: float
    error: float

    @property
    def least(self) -> float:
        """The growth that is as good as certain; 0 or less for none."""
        return self.mb_per_s - SURENESS * self.error


def slope_of(samples: Sequence[tuple[float, float]]) -> Slope:
    """Return the slope of (seconds, MiB) by least squares; an infinite error for fewer than three.

    >>> slope_of([(0, 10), (1, 12), (2, 14), (3, 16)])
    Slope(mb_per_s=2.0, error=0.0)
    """
    count = len(samples)
    if count < 3:
        return Slope(0.0, math.inf)
    middle_s = sum(at_s for at_s, _ in samples) / count
    middle_mb = sum(mb for _, mb in samples) / count
    spread = sum((at_s - middle_s) ** 2 for at_s, _ in samples)
    slope = sum((at_s - middle_s) * (mb - middle_mb) for at_s, mb in samples) / spread
    rest = sum((mb - middle_mb - slope * (at_s - middle_s)) ** 2 for at_s, mb in samples)
    return Slope(slope, math.sqrt(rest / (count - 2) / spread))


def verdict(samples: Sequence[tuple[float, float]], grown_mb: float, free_mb: float, growth_mb: float) -> str:
    """Return why a process should be started anew; empty if it should not.

    Args:
        samples: (seconds, resident MiB), the oldest first.
        grown_mb: By how much it is above what it settled at.
        free_mb: What is left on this machine, or in its control group.
        growth_mb: The most that it may grow; 0 for any.
    """
    slope = slope_of(samples)
    if len(samples) < LEAST_SAMPLES or slope.least <= 0 or grown_mb < LEAST_GROWTH_MB:
        return ""
    text = f"its memory grew by {grown_mb:.0f} MiB, now {slope.mb_per_s * 3600:.0f} MiB an hour"
    if growth_mb and grown_mb > growth_mb:
        return f"{text}; limits.growth_mb is {growth_mb:.0f}"
    if free_mb / slope.least < HORIZON_S:
        return (
            f"{text}; the {free_mb:.0f} MiB that are free would last {free_mb / slope.least / 60:.0f} minutes"
        )
    return ""


class MemoryWatch:
    """Samples one process and says when it should be started anew; on the supervisor's thread."""

    def __init__(
        self,
        growth_mb: float,
        resident_mb: Callable[[int], float] = rss_mb,
        left_mb: Callable[[], float] | None = None,
    ) -> None:
        self._growth_mb, self._resident_mb, self._left_mb = growth_mb, resident_mb, left_mb or free_mb
        self._samples: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        self._key: object = None
        self._since_s = self._sampled_s = -math.inf
        self.settled_mb = 0.0
        """What the process had once it had settled."""

    def wait(self) -> None:
        """Ask for no new start before as many samples as at first are taken."""
        self._samples.clear()

    def has_room(self) -> bool:
        """Return whether the process fits into the memory that is left once more, with a quarter to spare."""
        return self._left_mb() > 1.25 * self.settled_mb

    def look(self, now_s: float, pid: int, runs: object) -> str:
        """Take a sample if it is time; return why the process should be started anew, or an empty text.

        Args:
            now_s: Monotonic seconds.
            pid: The process.
            runs: What it runs; where that changes, the watch begins again.
        """
        if (pid, runs) != self._key:
            self._key, self._since_s, self.settled_mb = (pid, runs), now_s, 0.0
            self._samples.clear()
        if now_s - self._sampled_s < SAMPLE_S or now_s - self._since_s < SETTLE_S:
            return ""
        self._sampled_s, mb = now_s, self._resident_mb(pid)
        self.settled_mb = self.settled_mb or mb
        self._samples.append((now_s, mb))
        return verdict(self._samples, mb - self.settled_mb, self._left_mb(), self._growth_mb)


def free_mb(root: Path = Path("/")) -> float:
    """Return the MiB that processes may still take: of the machine, or of this one's control group.

    Source: proc(5), /proc/meminfo; the kernel's cgroup-v2.rst, memory.max and memory.current.
    """
    left = [math.inf]
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
        left += [
            int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("MemAvailable:")
        ]
        group = (root / f"proc/{os.getpid()}/cgroup").read_text(encoding="ascii").partition("0::/")[2].strip()
        folder = root / "sys/fs/cgroup" / group
        most = (folder / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            left.append(
                (int(most) - int((folder / "memory.current").read_text(encoding="ascii"))) / (1 << 20)
            )
    except (OSError, ValueError):
        pass
    return max(min(left), 0.0)
