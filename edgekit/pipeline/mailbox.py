"""The queue of frames from the capture thread to the inference thread."""

from __future__ import annotations

import threading
from collections import deque

from edgekit.core.ports import Frame


class Mailbox:
    """A bounded queue between two threads.

    Args:
        is_live: When it is full, whether a new frame replaces the oldest one (a gap in ``seq``); else
            ``put`` waits, and nothing is lost.
        capacity: The most frames in it.
    """

    def __init__(self, *, is_live: bool, capacity: int = 1) -> None:
        self._is_live = is_live
        self._capacity = capacity
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def wait_for_room(self) -> bool:
        """Wait until ``put`` would not wait; False if the mailbox is closed.

        A reader of files calls it before it decodes, so that frames are fresh.
        """
        with self._changed:
            if not self._is_live:
                self._changed.wait_for(lambda: self._is_closed or len(self._frames) < self._capacity)
            return not self._is_closed

    def put(self, frame: Frame) -> bool:
        """Add a frame; False if the mailbox is closed."""
        with self._changed:
            if not self.wait_for_room():
                return False
            while len(self._frames) >= self._capacity:
                self._frames.popleft()
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> Frame | None:
        """Return the next frame; None on timeout, after ``nudge``, or when closed and empty."""
        with self._changed:
            if not self._frames and not self._is_closed:
                self._changed.wait(timeout_s)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    @property
    def waiting(self) -> int:
        """How many frames are in it."""
        return len(self._frames)

    def nudge(self) -> None:
        """Wake the thread that waits in ``take``."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more frames; those inside can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_spent(self) -> bool:
        """Whether it is closed and empty."""
        with self._changed:
            return self._is_closed and not self._frames
