"""When to restart a worker that ended. Pure: the caller passes the time."""

from __future__ import annotations

import enum
from collections import deque


class Verdict(enum.Enum):
    """What to do about a worker that ended unexpectedly."""

    RESTART = "restart"
    GIVE_UP = "give up"
    """It keeps crashing: run another version if there is one."""


class Restarts:
    """Counts crashes, backs off, and gives up at ``limit`` crashes within ``window_s``.

    >>> restarts = Restarts(limit=3, window_s=60, backoff_s=1.0, backoff_max_s=3.0)
    >>> [(restarts.crashed(now_s).name, restarts.delay_s) for now_s in (0, 10, 20)]
    [('RESTART', 1.0), ('RESTART', 2.0), ('GIVE_UP', 3.0)]
    >>> restarts.crashed(500).name, restarts.delay_s
    ('RESTART', 1.0)
    >>> restarts.crashed(501, is_final=True).name, restarts.delay_s
    ('GIVE_UP', 3.0)
    """

    def __init__(self, limit: int, window_s: float, backoff_s: float, backoff_max_s: float) -> None:
        self._limit, self._window_s = limit, window_s
        self._backoff_s, self._backoff_max_s = backoff_s, backoff_max_s
        self._crashes: deque[float] = deque(maxlen=limit)
        self.total = 0

    @property
    def delay_s(self) -> float:
        """Seconds to wait before the next start."""
        if not self._crashes:
            return 0.0
        return min(self._backoff_s * float(2 ** min(len(self._crashes) - 1, 64)), self._backoff_max_s)

    def crashed(self, now_s: float, *, is_final: bool = False) -> Verdict:
        """Count a crash; return ``GIVE_UP`` at the limit within the window, and for one that is final."""
        while self._crashes and now_s - self._crashes[0] > self._window_s:
            self._crashes.popleft()
        self._crashes.extend([now_s] * (self._limit if is_final else 1))
        self.total += 1
        return Verdict.GIVE_UP if len(self._crashes) >= self._limit else Verdict.RESTART

    def forget(self) -> None:
        """Reset the count, as after a switch to another version."""
        self._crashes.clear()
