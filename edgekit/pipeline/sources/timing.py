"""When a frame is due, and when to retry a lost device."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from edgekit.core.errors import SourceError

logger = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
DUE_S = 10.0
"""Within this time a source that is not paced has a frame."""


class Pacer:
    """Waits until each frame is due, at a fixed rate above 0; ``closing`` ends a wait early.

    ``due_s``: within this time there is a frame.
    """

    def __init__(self, fps: float, closing: threading.Event) -> None:
        self._step_ns = int(1e9 / fps)
        self.due_s = DUE_S + 1 / fps
        self._closing = closing
        self._due_ns = 0

    def wait(self) -> None:
        """Wait for the next frame's time; a frame that is a whole step late restarts the schedule."""
        now_ns = time.monotonic_ns()
        if self._due_ns == 0 or now_ns - self._due_ns > self._step_ns:
            self._due_ns = now_ns
        if self._due_ns > now_ns:
            self._closing.wait((self._due_ns - now_ns) / 1e9)
        self._due_ns += self._step_ns


class Reopener(Generic[T]):
    """Reopens a lost device with ``opener``, which opens it or raises ``SourceError``.

    It retries for ``give_up_s``, 0 is forever; ``closing`` ends a wait early. ``reopened`` counts.
    """

    def __init__(
        self, name: str, opener: Callable[[], T], give_up_s: float, closing: threading.Event
    ) -> None:
        self._name, self._opener, self._give_up_s, self._closing = name, opener, give_up_s, closing
        self.is_waiting = False
        self.reopened = 0

    def again(self, why: str) -> T | None:
        """Return the device, opened again after growing waits; None when closing.

        Raises:
            SourceError: It did not come back in time.
        """
        logger.warning("source lost, opening it again", extra={"source": self._name, "why": why})
        started, wait_s = time.monotonic(), FIRST_WAIT_S
        self.is_waiting = True
        try:
            while not self._closing.wait(wait_s):
                try:
                    device = self._opener()
                except SourceError as error:
                    why = error.message
                else:
                    self.reopened += 1
                    logger.warning("source is back", extra={"source": self._name})
                    return device
                if self._give_up_s and time.monotonic() - started > self._give_up_s:
                    raise SourceError(f"{self._name}: vanished and did not come back: {why}")
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        finally:
            self.is_waiting = False
        return None


def stamp() -> tuple[int, int]:
    """Return now as (monotonic nanoseconds, Unix milliseconds)."""
    return time.monotonic_ns(), time.time_ns() // 1_000_000
