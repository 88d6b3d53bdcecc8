"""Work that repeats in a thread of its own, and ends when its owner says so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_MAX_BACKOFF_S = 60.0
_MIN_GAP_S = 0.1
"""Between two calls, however often it is woken: many wakes are one."""


class Ticker:
    """Calls ``work`` at once, then every ``interval_s``, and whenever it is woken.

    Work that fails is told in the log and done again, later and later while it goes on failing.

    Args:
        name: The thread's name.
        interval_s: Seconds between calls.
        work: What to do; it must be safe to do again after it failed half-way.
    """

    def __init__(self, name: str, interval_s: float, work: Callable[[], object]) -> None:
        self._interval_s, self._work = interval_s, work
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Call the work soon, and not only at the next interval; from any thread."""
        self._wake.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it and wait until the work at hand is done; safe twice."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        failed, called = 0, False
        while not self._stopping.wait(_MIN_GAP_S if called else 0):
            called = True
            self._wake.clear()
            try:
                self._work()
                failed = 0
            except Exception:  # the owner of the thread: nothing above it would tell anyone
                failed += 1
                self.failures += 1
                logger.exception("%s failed (%d in a row)", self._thread.name, failed)
            self._wake.wait(min(self._interval_s * 2**failed, max(_MAX_BACKOFF_S, self._interval_s)))
