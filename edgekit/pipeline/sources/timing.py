"""When a frame is due, and when to retry a lost device."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from edgekit.core.errors import SourceError

logger = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
LATE_NS = 200_000_000
LEAST_WAIT_S = {"AUTH_FAILED": 60.0}
"""By fault: a camera locks an account after a few wrong passwords."""
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


class Player:
    """Waits until each frame of a recording is due by its own timestamp; ``closing`` ends a wait early.

    A frame that is late by more than the time since the last, and by ``LATE_NS``, restarts the schedule.
    So does one that is earlier than the last: the recording began again.

    ``due_s``: within this time there is a frame.
    """

    def __init__(self, closing: threading.Event) -> None:
        self.due_s = DUE_S
        self._closing = closing
        self._zero_ns: int | None = None
        self._last_s = 0.0

    def wait_until(self, media_s: float) -> None:
        """Wait for a frame's time."""
        now_ns, at_ns = time.monotonic_ns(), int(media_s * 1e9)
        step_ns, self._last_s = int((media_s - self._last_s) * 1e9), media_s
        late_ns = 0 if self._zero_ns is None else now_ns - (self._zero_ns + at_ns)
        if self._zero_ns is None or step_ns < 0 or late_ns > max(step_ns, LATE_NS):
            self._zero_ns = now_ns - at_ns
        wait_s = (self._zero_ns + at_ns - now_ns) / 1e9
        self.due_s = DUE_S + wait_s
        if wait_s > 0:
            self._closing.wait(wait_s)


class _Now(NamedTuple):
    """What is known of a device at one moment; replaced whole, so that a reader sees no half of a change."""

    state: Literal["opening", "open", "lost"] = "opening"
    reopened: int = 0
    fault: str = ""
    reason: str = ""


class Reopener(Generic[T]):
    """Opens a device with ``opener``, which returns it or raises ``SourceError``, and opens a lost one again.

    It retries for ``give_up_s``, 0 is forever; ``closing`` ends a wait early. ``reopened`` counts. A wait is
    a random part of a limit that doubles, so that many devices do not call a camera at once.
    Source: full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(
        self, name: str, opener: Callable[[], T], give_up_s: float, closing: threading.Event
    ) -> None:
        self._name, self._opener, self._give_up_s, self._closing = name, opener, give_up_s, closing
        self._now = _Now()

    @property
    def is_waiting(self) -> bool:
        """Whether the device is lost, so that no frame is due."""
        return self._now.state == "lost"

    @property
    def reopened(self) -> int:
        """How often it was opened again."""
        return self._now.reopened

    def state(self) -> dict[str, Any]:
        """Return whether frames come, how often it was opened again, and what is or was last wrong."""
        return self._now._asdict()

    def first(self) -> T:
        """Return the device, opened for the first time.

        Raises:
            SourceError: It cannot be opened.
        """
        try:
            device = self._opener()
        except SourceError as error:
            self._become("lost", error.fault, error.message)
            raise
        self._now = self._now._replace(state="open")
        return device

    def _become(self, state: Literal["open", "lost"], fault: str, reason: str) -> None:
        self._now = _Now(state, self._now.reopened, fault, reason)

    def again(self, why: str, fault: str = "") -> T | None:
        """Return the device, opened again after growing waits; None when closing.

        Raises:
            SourceError: It did not come back in time.
        """
        if self._closing.is_set():  # it was closed, not lost
            return None
        before = self._now.state
        self._become("lost", fault, why)
        fields = {"source": self._name, "why": why, "fault": fault}
        logger.warning("source lost, opening it again", extra=fields)
        started, wait_s = time.monotonic(), FIRST_WAIT_S
        while not self._closing.wait(max(random.uniform(0, wait_s), self._least_s())):  # noqa: S311
            try:
                device = self._opener()
            except SourceError as error:
                self._failed_again(error)
            else:
                self._now = self._now._replace(state="open", reopened=self._now.reopened + 1)
                logger.warning("source is back", extra={"source": self._name})
                return device
            if self._give_up_s and time.monotonic() - started > self._give_up_s:
                raise SourceError(
                    f"{self._name}: vanished and did not come back: {self._now.reason}", fault=self._now.fault
                )
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        self._now = self._now._replace(state=before)
        return None

    def _failed_again(self, error: SourceError) -> None:
        if error.fault != self._now.fault:
            fields = {"source": self._name, "why": error.message, "fault": error.fault}
            logger.warning("source cannot be opened yet", extra=fields)
        self._become("lost", error.fault, error.message)

    def _least_s(self) -> float:
        return LEAST_WAIT_S.get(self._now.fault, 0.0)


class StreamClock:
    """Puts a stream's own times on this machine's clock, by the packets that arrived with the least delay.

    The delay that is common to all packets (encoding, the shortest way) stays in. The two clocks may drift:
    only the last one to two ``WINDOW_NS`` count. A stream whose time goes back starts anew.
    """

    WINDOW_NS = 30_000_000_000
    BACK_NS = 500_000_000  # pictures may be out of order by less

    def __init__(self) -> None:
        self._offsets_ns: tuple[int, ...] = ()  # the least of the last window and of this one
        self._window_began_ns = self._newest_ns = 0

    def captured_ns(self, stream_ns: int, arrived_ns: int) -> int:
        """Return the monotonic time of a picture with this time in its stream, which arrived just now."""
        offset_ns = arrived_ns - stream_ns
        if not self._offsets_ns or stream_ns < self._newest_ns - self.BACK_NS:
            self._offsets_ns, self._window_began_ns, self._newest_ns = (offset_ns,), arrived_ns, stream_ns
        elif arrived_ns - self._window_began_ns > self.WINDOW_NS:
            self._offsets_ns, self._window_began_ns = (self._offsets_ns[-1], offset_ns), arrived_ns
        self._newest_ns = max(self._newest_ns, stream_ns)
        self._offsets_ns = (*self._offsets_ns[:-1], min(self._offsets_ns[-1], offset_ns))
        return stream_ns + min(self._offsets_ns)


def stamp() -> tuple[int, int]:
    """Return now as (monotonic nanoseconds, Unix milliseconds)."""
    return time.monotonic_ns(), time.time_ns() // 1_000_000
