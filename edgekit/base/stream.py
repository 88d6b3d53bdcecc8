"""What one user of a lane has waiting: frames of a pipeline, or all requests."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
ALLOWANCE_S = 0.1


class Stream(Generic[T]):
    """A bounded queue into a lane, which runs its items one by one; made by ``Lane.stream``.

    ``error`` is what a run raised; it ended the stream.
    """

    def __init__(
        self,
        run: Callable[[T], object],
        wake: Callable[[], None],
        lock: threading.Lock,
        clock: Callable[[], float],
        *,
        is_live: bool = False,
        capacity: int = 0,
        allowance_s: float = ALLOWANCE_S,
        priority: float = 0,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.run, self.priority = run, priority
        self.error: Exception | None = None
        self.items: deque[T] = deque()
        """Changed only with the lane's lock held."""
        self._wake, self._lock, self._clock = wake, lock, clock
        self._changed = threading.Condition(lock)
        self._waiters = 0
        """Threads that wait for a change: mostly none, and then there is nothing to notify."""
        self._is_live, self._capacity = is_live, capacity
        self._allowance_s, self._has_room = allowance_s, has_room
        self._waits_since_s = 0.0
        self._is_closed = self._is_in_work = False

    # -- its user

    def wait_for_room(self) -> bool:
        """Wait until ``put`` would not wait for long; False if the stream is closed.

        A reader of files calls it before it decodes, so that frames are fresh. It does not wait for the
        lane's thread to wake and take the item before, a tenth of a millisecond.
        """
        if not self._is_soon_free():  # without the lock: only its caller makes it fuller
            with self._lock:
                self._wait_for(self._is_soon_free)
        return not self._is_closed

    def put(self, item: T) -> bool:
        """Add an item; False if the stream is closed."""
        with self._lock:
            if not self._can_put():
                self._wait_for(self._can_put)
            if self._is_closed:
                return False
            self.add(item)
            if len(self.items) > self._capacity:
                self.items.popleft()
            return True

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self.items)

    @property
    def is_idle(self) -> bool:
        """Whether no item waits or runs."""
        return not self.items and not self._is_in_work

    @property
    def is_spent(self) -> bool:
        """Whether it is closed and idle."""
        return self._is_closed and self.is_idle

    def wait_spent(self) -> None:
        """Wait until it is closed and its last item has run."""
        with self._lock:
            self._wait_for(lambda: self.is_spent)

    def nudge(self) -> None:
        """Have the lane look again whether there is room."""
        with self._lock:
            self._wake()

    def close(self, *, discard: bool = False) -> None:
        """Accept no more items; those that wait still run, or are discarded."""
        with self._lock:
            self.end(discard=discard)

    def fail(self, error: Exception) -> None:
        """Close and empty it because of an error."""
        with self._lock:
            self.error = self.error or error
            self.end(discard=True)

    def _wait_for(self, is_so: Callable[[], bool]) -> None:
        self._waiters += 1
        try:
            self._changed.wait_for(is_so)
        finally:
            self._waiters -= 1

    def _notify(self) -> None:
        if self._waiters:
            self._changed.notify_all()

    def _can_put(self) -> bool:
        return self._is_live or self._is_closed or len(self.items) < self._capacity

    def _is_soon_free(self) -> bool:
        return self._can_put() or not self._is_in_work

    # -- whoever runs its item, without the lock

    def do(self, item: T) -> None:
        """Run an item; what it raises ends the stream."""
        try:
            self.run(item)
        except Exception as error:  # noqa: BLE001 - handed to the stream's user
            self.fail(error)

    # -- its lane, with the lock held

    @property
    def is_ready(self) -> bool:
        """Whether an item could run now."""
        return bool(self.items) and self._has_room()

    @property
    def deadline_s(self) -> float:
        """When it is late.

        A new frame in the place of an older one does not put it off.
        """
        return self._waits_since_s + self._allowance_s

    def add(self, item: T, at: int | None = None, *, wake: bool = True) -> None:
        """Add an item, whatever the capacity: after ``at`` others, by default after all."""
        if not self.items:
            self._waits_since_s = self._clock()
        if at is None:
            self.items.append(item)
        else:
            self.items.insert(at, item)
        if wake:
            self._wake()

    def take(self) -> T:
        """Remove and return the first item, which runs now."""
        self._is_in_work = True
        item = self.items.popleft()
        if not self._is_live:
            self._notify()
        return item

    def begin(self) -> bool:
        """Note that an item runs at once, ahead of none; False where none may."""
        if self._is_closed or self._is_in_work or not self._has_room():
            return False
        self._is_in_work = True
        return True

    def served(self) -> None:
        """Note that the item has run."""
        self._is_in_work = False
        self._waits_since_s = self._clock()
        if self._is_closed:
            self._notify()

    def end(self, *, discard: bool) -> None:
        """Close it."""
        self._is_closed = True
        if discard:
            self.items.clear()
        self._notify()
