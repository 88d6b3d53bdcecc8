"""Runs the requests of quick models in the event loop: one that comes alone at once, others together.

In each round the loop reads what has come on all connections. A request that is the only one of its round
runs where it was read. Where several come in a round, those of the next one wait for its end: then the lane
knows them all, and runs what pays at once, in its order.
"""

from __future__ import annotations

import asyncio

from edgekit.base.lane import Lane

_ROUND_S = 0.002
"""The most that one round's requests take: meanwhile nobody is read from, or noticed to hang up."""


class Rounds:
    """The rounds of one event loop."""

    def __init__(self) -> None:
        self._came: dict[Lane, int] = {}
        """How many requests came in this round."""
        self._crowded: set[Lane] = set()
        """To which several came in the last one."""

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
