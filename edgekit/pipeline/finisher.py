"""Decoding, events, redaction and sinks, in a thread beside the next inference."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgekit.base.stream import ALLOWANCE_S
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Frame, Result, Sink
from edgekit.core.spec import Prediction
from edgekit.pipeline.budget_keeper import Keeper
from edgekit.pipeline.events import Debounce, Event, EventMaker
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.redact import Redactor
from edgekit.pipeline.stats import Tally
from edgekit.pipeline.timed import Inferred, Timed

logger = logging.getLogger(__name__)

ROOM = 2
"""Jobs that may wait: with one, the next inference could not begin before this thread has taken it up."""


class Watch(Protocol):
    """Follows objects over frames; in one thread at a time."""

    def step(
        self, frame: Frame, prediction: Prediction, threshold: float
    ) -> tuple[Prediction, tuple[Event, ...]]:
        """Return the items to report (from the threshold on, or followed), and what happened."""

    def document(self) -> dict[str, Any]:
        """Return the counts of the run."""


@dataclass
class Rules:
    """A pipeline's configuration of its loop.

    ``watch``: follows the objects of ``[track]`` and makes the events, in place of the debounce.
    ``max_errors``: how many failed frames in a row end the run. ``keeper``: of a live source's ``[budget]``.
    ``allowance_s``: how long a frame may wait where several pipelines use the model, see ``Lane.stream``.
    """

    debounce: Debounce = field(default_factory=Debounce)
    redactor: Redactor | None = None
    watch: Watch | None = None
    max_errors: int = 30
    keeper: Keeper | None = None
    allowance_s: float = ALLOWANCE_S


@dataclass(slots=True)
class Job:
    """One frame after inference, with the outputs or the error."""

    frame: Frame
    predictor: Predictor
    inferred: Inferred | None = None
    error: EdgekitError | None = None


class Finisher:
    """A thread that does one job after the other; two may be queued.

    ``on_fatal`` is called once, when it cannot go on; then ``error`` says why. ``on_room`` is called when
    ``has_room`` becomes true. ``on_done`` is called with each frame that the sinks have, or that failed.
    """

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        rules: Rules,
        tally: Tally,
        on_fatal: Callable[[], None],
        on_room: Callable[[], None],
        on_done: Callable[[Frame], object] = lambda _frame: None,
    ) -> None:
        self._name, self._sinks, self._rules, self._tally = name, tuple(sinks), rules, tally
        self._on_fatal, self._on_room, self._on_done = on_fatal, on_room, on_done
        self._events = EventMaker(rules.debounce, lambda: os.urandom(8).hex())
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_busy = self._is_ending = False
        self._failed_in_a_row = 0
        self.done = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"finish-{name}")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def has_room(self) -> bool:
        """Return whether another job may be given."""
        return len(self._jobs) < ROOM

    def give(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def wait_idle(self) -> None:
        """Wait until every job is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs and not self._is_busy)

    def end(self) -> None:
        """Finish the queued jobs and end the thread, then close the sinks."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        for sink in self._sinks:
            self._close(sink)

    # -- its own thread

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._finish(job)
            except Exception as error:  # noqa: BLE001 - handed to the thread that runs the loop
                self.error = error
                self._on_fatal()
            self.done += 1
            del job  # frees its frame
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_ending)
            if not self._jobs:
                return None
            self._is_busy = True
            job = self._jobs.popleft()
        if len(self._jobs) == ROOM - 1:
            self._on_room()
        return job

    def _finish(self, job: Job) -> None:
        if self.error is not None:  # the run is over: later frames count as dropped
            self._tally.dropped += 1
            return
        try:
            if job.error is not None:
                raise job.error
            assert job.inferred is not None
            timed = job.predictor.finish(job.inferred)
        except EdgekitError as error:
            self._failed(job.predictor, error)
            self._on_done(job.frame)
            return
        self._failed_in_a_row = 0
        result = self._result(job, timed)
        self._tally.events += len(result.events)
        began_ns = time.perf_counter_ns()
        for sink in self._sinks:
            self._write(sink, result)
        self._on_done(job.frame)
        result.stage_ms["sink"] = (time.perf_counter_ns() - began_ns) / 1e6
        done_ns, stage_ms = time.monotonic_ns(), result.stage_ms
        self._tally.finished(job.frame, done_ns, stage_ms)
        if self._rules.keeper is not None:
            work_ms = sum(stage_ms[stage] for stage in ("pre", "infer", "post", "sink"))
            self._rules.keeper.finished(job.frame, (done_ns - job.frame.captured_ns) / 1e6, work_ms)

    def _failed(self, predictor: Predictor, error: EdgekitError) -> None:
        predictor.failed()
        self._tally.failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row == 1:
            logger.warning("a frame failed: %s", error, extra={"pipeline": self._name})
        if self._failed_in_a_row >= self._rules.max_errors:
            raise error

    def _result(self, job: Job, timed: Timed) -> Result:
        frame, prediction = job.frame, timed.prediction
        if (watch := self._rules.watch) is not None:
            prediction, events = watch.step(frame, prediction, job.predictor.threshold)
        else:
            events = self._events.step(prediction, frame.seq, frame.captured_ns, frame.captured_unix_ms)
        if self._rules.redactor is not None:
            self._rules.redactor.apply(frame.data, prediction)
        manifest = job.predictor.manifest
        stage_ms = {
            "capture": float(frame.meta.get("capture_ms", 0.0)),
            "pre": timed.pre_ms,
            "infer": timed.infer_ms,
            "post": timed.post_ms,
            "latency": (time.monotonic_ns() - frame.captured_ns) / 1e6,
        }
        return Result(
            pipeline=self._name,
            frame=frame,
            prediction=prediction,
            events=events,
            model=manifest.model,
            version=manifest.version,
            variant=job.predictor.variant.id,
            stage_ms=stage_ms,
            trace_id=os.urandom(16).hex() if events else "",
        )

    def _write(self, sink: Sink, result: Result) -> None:
        try:
            sink.write(result)
        except EdgekitError as error:
            self._tally.sink_errors += 1
            if self._tally.sink_errors == 1:
                logger.warning("a sink failed: %s", error, extra={"pipeline": self._name})

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except EdgekitError as error:
            self._tally.sink_errors += 1
            logger.warning("a sink failed to close: %s", error, extra={"pipeline": self._name})
