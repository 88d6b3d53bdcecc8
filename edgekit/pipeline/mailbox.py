"""Where the capture thread leaves frames for the inference thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.core.ports import Frame


class Mailbox:
    """A bounded hand-over between two threads.

    Args:
        is_live: True: when it is full, a new frame takes the place of the oldest that nobody took (a
            gap in ``seq`` tells its taker). False: the giver waits, and nothing is lost.
        capacity: Slots.
    """

    def __init__(self, *, is_live: bool, capacity: int = 1) -> None:
        self._is_live = is_live
        self._capacity = capacity
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def wait_for_room(self) -> bool:
        """Wait until ``put`` would not; False if the mailbox is closed.

        A reader of files waits here before it decodes, so that no frame grows old in its hands.
        """
        with self._changed:
            if not self._is_live:
                self._changed.wait_for(lambda: self._is_closed or len(self._frames) < self._capacity)
            return not self._is_closed

    def put(self, frame: Frame) -> bool:
        """Leave a frame; False if the mailbox is closed and did not take it."""
        with self._changed:
            if not self._is_live:
                self._changed.wait_for(lambda: self._is_closed or len(self._frames) < self._capacity)
            if self._is_closed:
                return False
            while len(self._frames) >= self._capacity:
                self._frames.popleft()
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> Frame | None:
        """Wait for a frame; None on timeout, after ``nudge``, or when closed and empty."""
        with self._changed:
            if not self._frames and not self._is_closed:
                self._changed.wait(timeout_s)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def nudge(self) -> None:
        """Wake whoever waits in ``take``."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more frames; what is inside can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_spent(self) -> bool:
        """Closed, and empty."""
        with self._changed:
            return self._is_closed and not self._frames
