"""Runs the updater's jobs one after the other, on one thread that waits for the child process."""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections.abc import Callable

from edgekit.core.errors import EdgekitError, LinkError
from edgekit.update.contract import UpdaterRequest, UpdaterResult
from edgekit.update.launch import run_updater

logger = logging.getLogger(__name__)

MAX_JOBS = 64
Outcome = UpdaterResult | EdgekitError
Done = Callable[[Outcome], None]


class UpdaterJobs:
    """A queue of jobs for the updater; at most one runs.

    Args:
        post: Has a callback run on the supervisor's thread.
        run: Runs one job and waits for it.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        run: Callable[[UpdaterRequest], UpdaterResult] = run_updater,
    ) -> None:
        self._post, self._run = post, run
        self._jobs: queue.Queue[tuple[UpdaterRequest, Done] | None] = queue.Queue(MAX_JOBS)
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name="updater", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: UpdaterRequest, done: Done) -> None:
        """Queue a job; ``done`` is called on the supervisor's thread with its result or error."""
        try:
            self._jobs.put_nowait((request, done))
            self._waiting += 1
        except queue.Full:
            done(LinkError(f"{MAX_JOBS} jobs wait for the updater already"))

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits; ask on the supervisor's thread."""
        return self._waiting > 0

    def stop(self) -> None:
        """Take no more jobs; the one that runs ends with this process."""
        try:
            self._jobs.put_nowait(None)
        except queue.Full:
            logger.warning("the updater's queue is full at the end")

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            request, done = job
            outcome = self._outcome(request)
            self._post(functools.partial(self._tell, done, outcome))

    def _tell(self, done: Done, outcome: Outcome) -> None:
        self._waiting -= 1
        done(outcome)

    def _outcome(self, request: UpdaterRequest) -> Outcome:
        try:
            return self._run(request)
        except EdgekitError as error:
            return error
