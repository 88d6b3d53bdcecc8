"""Work that is repeated in a thread of its own until its owner stops it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_MAX_BACKOFF_S = 60.0
_MIN_GAP_S = 0.1
"""Shortest pause between two calls: several wake-ups during it cause one call."""


class Ticker:
    """Calls ``work`` at once, then every ``interval_s``, and whenever it is woken.

    An exception is logged, and the work is repeated after a pause that grows with each failure in a row.

    Args:
        name: The thread's name.
        interval_s: Seconds between calls.
        work: The work; it must be safe to repeat after it failed half-way.
    """

    def __init__(self, name: str, interval_s: float, work: Callable[[], object]) -> None:
        self._interval_s, self._work = interval_s, work
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._turn = threading.Condition()
        self._begun = self._ended = 0
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Have the work done now instead of at the next interval; from any thread."""
        self._wake.set()

    def catch_up(self, timeout_s: float) -> bool:
        """Have the work done, and wait for it; return whether a call that began since then has ended."""
        with self._turn:
            awaited = self._begun + 1
            self._wake.set()
            return self._turn.wait_for(lambda: self._ended >= awaited, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the thread, after the current call; safe twice."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failed, called = 0, False
        while not self._stopping.wait(_MIN_GAP_S if called else 0):
            called = True
            self._wake.clear()
            with self._turn:
                self._begun += 1
            try:
                self._work()
                failed = 0
            except Exception:  # the top of the thread: nothing above it would log the error
                failed += 1
                self.failures += 1
                logger.exception("%s failed (%d in a row)", self._thread.name, failed)
            with self._turn:
                self._ended = self._begun
                self._turn.notify_all()
            self._wake.wait(min(self._interval_s * 2**failed, max(_MAX_BACKOFF_S, self._interval_s)))
