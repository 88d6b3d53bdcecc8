"""The rounds of an event loop: when what is read now may have come, and what runs at a round's end.

In each round the loop reads what has come on all connections. A request to a quick model that is the only one
of its round runs where it was read. Where several come in a round, those of the next one wait for its end:
then the lane knows them all, and runs what pays at once, in its order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from edgekit.base.lane import Lane

_ROUND_S = 0.002
"""The most that one round's requests take: meanwhile nobody is read from, or noticed to hang up."""


class Rounds:
    """The rounds of the running event loop, as far as requests come in them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = self._last_began_s = 0.0
        self._is_watching = False
        self._came: dict[Lane, int] = {}
        """How many requests came in this round."""
        self._crowded: set[Lane] = set()
        """To which several came in the last one."""

    def age_s(self) -> float:
        """Return for how long, at most, a request that is read now may have waited to be read.

        That is since the round before began, if requests came in it: while they were read, nobody looked.
        """
        now_s = self._clock()
        if not self._began_s:
            self._began_s = now_s
            if not self._is_watching:
                self._is_watching = True
                asyncio.get_running_loop().call_soon(self._begin)
        return now_s - self._last_began_s if self._last_began_s else 0.0

    def _begin(self) -> None:
        self._last_began_s, self._began_s = self._began_s, 0.0
        self._is_watching = bool(self._last_began_s)
        if self._is_watching:
            asyncio.get_running_loop().call_soon(self._begin)

    def is_alone(self, lane: Lane) -> bool:
        """Count a request of a quick model, and return whether it may run at once, in this thread.

        If not, submit it with ``wake=False``: it runs at the end of the round.
        """
        came = self._came.get(lane, 0)
        self._came[lane] = came + 1
        if not came:
            asyncio.get_running_loop().call_soon(self._end, lane)
        return not came and lane not in self._crowded

    def _end(self, lane: Lane) -> None:
        if self._came[lane] == 1:
            self._crowded.discard(lane)
            self._run(lane)
        else:
            self._crowded.add(lane)
            asyncio.get_running_loop().call_soon(self._run, lane)  # after those that hung up were heard

    def _run(self, lane: Lane) -> None:
        del self._came[lane]
        if lane.run_waiting(_ROUND_S):
            self._came[lane] = 2
            asyncio.get_running_loop().call_soon(self._run, lane)
