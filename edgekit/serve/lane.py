"""One thread that runs one model's work in order, behind a bounded queue.

All bookkeeping happens on the event loop, which gives the thread one job at a time: so a job that has not
begun can leave the queue at any moment, without a lock.

A model is opened and closed in this thread. OpenVINO's CPU plugin gives the thread that opens it an
alternate signal stack, which the thread that closes it frees: if they differ, the next signal to the
first one ends the process (seen with OpenVINO 2026.4 and SIGTERM).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgekit.serve.errors import ClientGoneError, HttpError
from edgekit.serve.ports import Limits

T = TypeVar("T")
Kind = str
_SMOOTHING = 0.1
_ENOUGH = 5


class Pace:
    """A running average of the seconds that one kind of work takes."""

    def __init__(self) -> None:
        self.typical_s = 0.0
        self.runs = 0

    def add(self, seconds: float) -> None:
        """Count one run."""
        self.runs += 1
        share = max(_SMOOTHING, 1 / self.runs)
        self.typical_s += share * (seconds - self.typical_s)

    def is_below(self, seconds: float) -> bool:
        """Return whether at least 5 runs were measured and typically take less than this."""
        return self.runs >= _ENOUGH and self.typical_s < seconds


@dataclass(eq=False)
class Job:
    """Work for the lane, and the future of its result."""

    work: Callable[[], Any]
    kind: Kind
    future: asyncio.Future[Any]
    queued_s: float
    deadline_s: float | None = None
    began_s: float = 0.0
    took_s: float = 0.0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


@dataclass
class Counts:
    """The jobs that a lane refused or gave up."""

    shed: int = 0
    deadline_missed: int = 0
    cancelled_queued: int = 0
    cancelled_running: int = 0


class Lane:
    """Runs one model's work in a thread called ``name``; use it from one event loop."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.counts = Counts()
        self._name, self._limits = name, limits
        self._paces: dict[Kind, Pace] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs."""
        return self._running is not None

    @property
    def is_stuck(self) -> bool:
        """Whether the running job has taken longer than ``Limits.stuck_s``."""
        running = self._running
        return running is not None and time.monotonic() - running.began_s > self._limits.stuck_s

    def pace(self, kind: Kind) -> Pace:
        """Return the measured pace of one kind of work."""
        return self._paces.setdefault(kind, Pace())

    def runs_inline(self, kind: Kind) -> bool:
        """Return whether work of this kind may run on the event loop now: it is quick, and none runs."""
        return self._running is None and self.pace(kind).is_below(self._limits.inline_s)

    def run_inline(self, work: Callable[[], T], kind: Kind) -> T:
        """Run quick work on the event loop; raises what the work raises."""
        began_s = time.monotonic()
        try:
            return work()
        finally:
            self.pace(kind).add(time.monotonic() - began_s)

    def wait_s(self) -> float:
        """Return the estimated seconds until a new job would begin."""
        waits = sum(self.pace(job.kind).typical_s for job in self._waiting)
        if self._running is not None:
            spent_s = time.monotonic() - self._running.began_s
            waits += max(0.0, self.pace(self._running.kind).typical_s - spent_s)
        return waits

    def submit(self, work: Callable[[], Any], kind: Kind, timeout_s: float = 0.0) -> Job:
        """Queue work that a client waits for, by ``kind`` of work, for ``timeout_s`` (0: no limit).

        Raises:
            HttpError: 429: the queue is full, or the work cannot end in time.
        """
        wait_s = self.wait_s()
        if len(self._waiting) >= self._limits.waiting:
            raise self._shed(f"{len(self._waiting)} requests wait for this model already", wait_s)
        needs_s = wait_s + self.pace(kind).typical_s
        if timeout_s and needs_s > timeout_s:
            raise self._shed(
                f"the answer would take {needs_s:.3f} s, the timeout is {timeout_s:.3f} s", wait_s
            )
        return self._queue(work, kind, timeout_s)

    async def call(self, work: Callable[[], T]) -> T:
        """Run work that is never refused (loading, closing), after the queued jobs."""
        result: T = await self._queue(work, "control", 0.0).future
        return result

    def call_blocking(self, work: Callable[[], T]) -> T:
        """Run work in the lane's thread and wait for it; only while no event loop uses the lane."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def task() -> None:
            try:
                future.set_result(work())
            except BaseException as raised:  # noqa: BLE001 - it is raised again by ``result``
                future.set_exception(raised)

        self._put(task)
        return future.result()

    def cancel(self, job: Job, error: Exception | None = None) -> None:
        """Give up a job: a queued one never begins, the result of a running one is dropped."""
        if job.future.done():
            return
        if job is self._running:
            self.counts.cancelled_running += error is None
        else:
            self._waiting.remove(job)
            self.counts.cancelled_queued += error is None
        self._settle(job, error or ClientGoneError())

    def stop(self) -> None:
        """End the thread after the running job; waits at most 1 s."""
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join(timeout=1.0)  # one that hangs in a runtime ends with the process

    def _shed(self, why: str, wait_s: float) -> HttpError:
        self.counts.shed += 1
        retry = str(max(1, math.ceil(wait_s))).encode()
        return HttpError(429, f"overloaded: {why}", ((b"retry-after", retry),))

    def _queue(self, work: Callable[[], Any], kind: Kind, timeout_s: float) -> Job:
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        job = Job(work, kind, loop.create_future(), now_s)
        if timeout_s:
            job.deadline_s = now_s + timeout_s
            job.timer = loop.call_later(timeout_s, self._expire, job)
        self._waiting.append(job)
        self._next()
        return job

    def _next(self) -> None:
        """Give the thread the next job that can still end in time."""
        while self._running is None and self._waiting:
            job = self._waiting.popleft()
            if job.future.done():  # cancelled
                continue
            job.began_s = time.monotonic()
            if job.deadline_s and job.began_s + self.pace(job.kind).typical_s > job.deadline_s:
                self.counts.deadline_missed += 1
                self._settle(job, HttpError(504, "the timeout would pass before the answer is ready"))
                continue
            self._running = job
            self._put(functools.partial(self._work, asyncio.get_running_loop(), job))

    def _expire(self, job: Job) -> None:
        if not job.future.done():
            self.counts.deadline_missed += 1
            self.cancel(job, HttpError(504, "the timeout has passed"))

    def _put(self, task: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._inbox.put(task)

    def _serve(self) -> None:
        while (task := self._inbox.get()) is not None:
            task()
            del task  # frees its arrays

    def _work(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        result, error = None, None
        try:
            result = job.work()
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the job is awaited
            error = raised
        job.took_s = time.monotonic() - job.began_s
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._done, job, result, error)

    def _done(self, job: Job, result: Any, error: BaseException | None) -> None:
        self._running = None
        self.pace(job.kind).add(job.took_s)
        if not job.future.done():
            self._settle(job, error, result)
        self._next()

    def _settle(self, job: Job, error: BaseException | None, result: Any = None) -> None:
        if job.timer is not None:
            job.timer.cancel()
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
