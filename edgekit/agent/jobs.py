"""Runs waiting work (mostly for a child process) on one thread, one piece at a time."""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from edgekit.core.errors import EdgekitError, LinkError

logger = logging.getLogger(__name__)

MAX_JOBS = 64
T = TypeVar("T")


class Jobs:
    """A queue of work; ``post`` runs a callback on the supervisor's thread."""

    def __init__(self, post: Callable[[Callable[[], None]], None], name: str = "jobs") -> None:
        self._post = post
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_JOBS)
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Callable[[T | EdgekitError], None]) -> None:
        """Queue work; ``done`` is called on the supervisor's thread with its result or error."""
        try:
            self._jobs.put_nowait(functools.partial(self._do, work, done))
            self._waiting += 1
        except queue.Full:
            done(LinkError(f"{MAX_JOBS} jobs wait already"))

    @property
    def is_busy(self) -> bool:
        """Whether work is under way or waits."""
        return self._waiting > 0

    @property
    def has_more(self) -> bool:
        """Whether more work waits behind what is under way; any thread may ask."""
        return self._waiting > 1

    def stop(self) -> None:
        """Accept no more work; the work under way ends with this process."""
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            logger.warning("%d jobs are left undone", MAX_JOBS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _do(self, work: Callable[[], T], done: Callable[[T | EdgekitError], None]) -> None:
        outcome: T | EdgekitError
        try:
            outcome = work()
        except EdgekitError as error:
            outcome = error
        self._post(functools.partial(self._finish, done, outcome))

    def _finish(self, done: Callable[[T | EdgekitError], None], outcome: T | EdgekitError) -> None:
        self._waiting -= 1
        done(outcome)
