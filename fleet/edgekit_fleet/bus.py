"""Who watches is told what changed: bounded queues between threads and server-sent events."""

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
    """Carries changes to watchers; a watcher that is too slow loses the oldest, and it is counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[_Watcher] = set()
        self._closed = False
        self.lost = 0

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """Tell every watcher; from any thread, without waiting."""
        change = Change(topic, data)
        with self._lock:
            for watcher in self._watchers:
                self.lost += len(watcher.waiting) == MAX_WAITING
                watcher.waiting.append(change)
                _wake(watcher)

    def close(self) -> None:
        """End every watch, so that a server can stop."""
        with self._lock:
            self._closed = True
            for watcher in self._watchers:
                _wake(watcher)

    async def watch(self, idle_s: float = 15.0) -> AsyncIterator[Change | None]:
        """Yield None as soon as it watches, changes as they come, and None after ``idle_s`` without one.

        Whoever looks at the state once it has the first None misses nothing. Ends when the bus is
        closed, or at once when 128 watch already.
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
    with contextlib.suppress(RuntimeError):  # its loop has ended; so will it
        watcher.loop.call_soon_threadsafe(watcher.arrived.set)
