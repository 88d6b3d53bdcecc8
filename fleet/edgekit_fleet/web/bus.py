"""Changes of the fleet's state, carried from any thread to the server-sent events of open pages.

Every queue is bounded: a watcher that is too slow loses its oldest changes, and they are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

MAX_WAITING = 256
MAX_WATCHERS = 128


@dataclass(frozen=True)
class Change:
    """Something that changed: its topic (``device``, ``event``, ``rollout``, ``bundle``) and data."""

    topic: str
    data: dict[str, Any]


@dataclass(eq=False)
class _Watcher:
    loop: asyncio.AbstractEventLoop
    waiting: deque[Change] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class Bus:
    """Distributes changes to watchers; ``lost`` counts those that slow watchers did not get."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[_Watcher] = set()
        self._closed = False
        self.lost = 0

    @property
    def watchers(self) -> int:
        """The number of watchers now."""
        return len(self._watchers)

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """Queue a change for every watcher; from any thread, without waiting."""
        change = Change(topic, data)
        with self._lock:
            for watcher in self._watchers:
                self.lost += len(watcher.waiting) == MAX_WAITING
                watcher.waiting.append(change)
                _wake(watcher)

    def close(self) -> None:
        """End every watch, so that the server can stop."""
        with self._lock:
            self._closed = True
            for watcher in self._watchers:
                _wake(watcher)

    async def watch(self, idle_s: float = 15.0) -> AsyncIterator[Change | None]:
        """Yield None once the watch has begun, then changes, and None after ``idle_s`` without one.

        Whoever reads the state after the first None misses no change. Ends when the bus is closed, and
        at once when there are 128 watchers already.
        """
        watcher = _Watcher(asyncio.get_running_loop())
        with self._lock:
            if len(self._watchers) >= MAX_WATCHERS or self._closed:
                return
            self._watchers.add(watcher)
        try:
            yield None
            while not self._closed:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(watcher.arrived.wait(), idle_s)
                watcher.arrived.clear()
                if not watcher.waiting:
                    yield None
                while watcher.waiting:
                    yield watcher.waiting.popleft()
        finally:
            with self._lock:
                self._watchers.discard(watcher)


def _wake(watcher: _Watcher) -> None:
    with contextlib.suppress(RuntimeError):  # its event loop has ended, and the watch with it
        watcher.loop.call_soon_threadsafe(watcher.arrived.set)
