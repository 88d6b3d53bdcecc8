"""The rounds of an event loop: when what is read now may have come, and what runs at a round's end.

In each round the loop reads what has come on all connections. A request to a quick model runs where it was
read, as long as those of its round have taken little time; then the others wait for the round's end, and the
lane runs them in its order. Where batches pay, only the first of a round runs so, and none after a round of
several: the lane is to know all that may run at once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from edgekit.serve.ports import RequestLane

_ROUND_S = 0.002
"""The most that those which waited for a round's end take at a time: meanwhile nobody is read from, or
noticed to hang up."""
_AT_ONCE_S = 0.005
"""How long after a round's first request others run where they are read: while their bytes are still in the
processor's cache a CNN's 110 KB take a fifth less time. Only what comes later is ordered by priority."""
_FOLLOWS_S = 0.002
"""A round that begins so soon after the end of one may have waited for it: on a busy machine the loop itself
waits for a processor in between."""


class Rounds:
    """The rounds of the running event loop, as far as requests come in them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = self._last_began_s = 0.0
        self._ended_s = -math.inf
        self._came: dict[RequestLane, int] = {}
        """How many requests came in this round."""
        self._waiting: set[RequestLane] = set()
        """For which some wait for its end."""
        self._crowded: set[RequestLane] = set()
        """To which several came in the last one, and may run at once."""

    def age_s(self) -> float:
        """Return for how long, at most, a request that is read now may have waited to be read.

        That is since the round before began, if this one followed at once: while it lasted, nobody looked.
        """
        now_s = self._clock()
        if not self._began_s:
            self._began_s = now_s
            if now_s - self._ended_s > _FOLLOWS_S:  # the loop has waited for it
                self._last_began_s = 0.0
            asyncio.get_running_loop().call_soon(self._end)
        return now_s - self._last_began_s if self._last_began_s else 0.0

    def may_run(self, lane: RequestLane, *, joins: bool) -> bool:
        """Count a request of a quick model, and return whether it may run at once, in this thread.

        If not, submit it with ``wake=False``: it runs at the end of the round. Call ``age_s`` before.

        Args:
            lane: The model's.
            joins: Whether it may run at once with others.
        """
        came = self._came.get(lane, 0)
        self._came[lane] = came + 1
        if joins:
            waits = came > 0 or lane in self._crowded
        else:
            waits = came > 0 and self._clock() - self._began_s > _AT_ONCE_S
        if waits:
            self._waiting.add(lane)
        return not waits

    def _end(self) -> None:
        self._last_began_s, self._began_s, self._ended_s = self._began_s, 0.0, self._clock()
        came, self._came = self._came, {}
        for lane, count in came.items():
            self._crowded.discard(lane)
            if count > 1:
                self._crowded.add(lane)
            if lane in self._waiting:
                asyncio.get_running_loop().call_soon(self._run, lane)  # after those that hung up were heard
            else:
                self._run(lane)

    def _run(self, lane: RequestLane) -> None:
        self._waiting.discard(lane)
        if lane.run_waiting(_ROUND_S):
            self._waiting.add(lane)
            asyncio.get_running_loop().call_soon(self._run, lane)
