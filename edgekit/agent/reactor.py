"""The supervisor's event loop: sockets, timers, and work posted by other threads."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import queue
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

logger = logging.getLogger(__name__)

MAX_POSTED = 1000
_LONGEST_WAIT_S = 1.0


class HasFileno(Protocol):
    """A socket, or an owner of one."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Reactor:
    """Runs callbacks one at a time on its thread. Only ``post`` and ``offer`` are for other threads."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._posted: queue.Queue[Callable[[], None]] = queue.Queue(MAX_POSTED)
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._drain)
        self._is_running = True

    def now_s(self) -> float:
        """Return the monotonic time."""
        return self._monotonic_s()

    def post(self, work: Callable[[], None]) -> None:
        """Run work on the reactor's thread; waits while the queue is full."""
        self._posted.put(work)
        self.wake()

    def offer(self, work: Callable[[], None]) -> bool:
        """Run work as ``post`` does, unless the queue is full; return whether it will be run."""
        try:
            self._posted.put_nowait(work)
        except queue.Full:
            return False
        self.wake()
        return True

    def wake(self) -> None:
        """End a wait; safe from signal handlers and any thread."""
        with contextlib.suppress(OSError):  # a full socket wakes just as well
            self._wake_in.send(b"\0")

    def stop(self) -> None:
        """End ``run`` after the work in hand; safe from signal handlers and any thread."""
        self._is_running = False
        self.wake()

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        """Run work once, ``delay_s`` from now."""
        heapq.heappush(self._timers, (self.now_s() + delay_s, next(self._numbers), work))

    def every(self, period_s: float, work: Callable[[], None]) -> None:
        """Run work every ``period_s``, first after one period."""

        def again() -> None:
            self.after(period_s, again)
            work()

        self.after(period_s, again)

    def watch(self, source: HasFileno, events: int, work: Callable[[int], None]) -> None:
        """Call ``work(events)`` when a socket is ready; a repeated call replaces the events."""
        try:
            self._selector.modify(source, events, work)
        except KeyError:
            self._selector.register(source, events, work)

    def unwatch(self, source: HasFileno) -> None:
        """Forget a socket; call it before the socket is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(source)

    def run(self) -> None:
        """Work until ``stop``."""
        while self._is_running:
            self.turn()

    def turn(self, longest_s: float = _LONGEST_WAIT_S) -> None:
        """Wait at most ``longest_s`` for events, and handle them."""
        wait_s = longest_s
        if self._timers:
            wait_s = max(0.0, min(wait_s, self._timers[0][0] - self.now_s()))
        for key, events in self._selector.select(wait_s):
            # an earlier callback of this round may have closed the socket
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        self._do_timers()
        self._do_posted()

    def close(self) -> None:
        """Free its own sockets."""
        self._selector.close()
        self._wake_out.close()
        self._wake_in.close()

    def _do_timers(self) -> None:
        now_s = self.now_s()
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()

    def _do_posted(self) -> None:
        for _ in range(MAX_POSTED):
            try:
                work = self._posted.get_nowait()
            except queue.Empty:
                return
            work()

    def _drain(self, _: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_out.recv(4096):
                pass
