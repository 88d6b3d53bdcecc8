"""Decoding, events, redaction and sinks, in a thread beside the next inference."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from edgekit.base.stream import ALLOWANCE_S
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import IDENTITY, IS_AGAIN, TRACE_ID, Frame, Result, Sink
from edgekit.core.spec import Prediction
from edgekit.pipeline.budget_keeper import Keeper
from edgekit.pipeline.events import Debounce, Event, EventMaker
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.receipt import Receipt
from edgekit.pipeline.redact import Redactor
from edgekit.pipeline.stats import Tally
from edgekit.pipeline.switch import Switch
from edgekit.pipeline.timed import Prepared, Timed

logger = logging.getLogger(__name__)

ROOM = 2
"""Jobs that may wait: with one, the next inference could not begin before this thread has taken it up."""


class Watch(Protocol):
    """Follows objects over frames; in one thread at a time."""

    def step(
        self, frame: Frame, prediction: Prediction, threshold: float
    ) -> tuple[Prediction, tuple[Event, ...]]:
        """Return the items to report (from the threshold on, or followed), and what happened."""

    def carry(self, frame: Frame, task: str) -> Prediction:
        """Return where the followed objects are expected in a frame that no model looked at."""

    def document(self) -> dict[str, Any]:
        """Return the counts of the run."""


class FirstStage(Protocol):
    """On which frames a pipeline's first model runs, and how; see ``edgekit.pipeline.stages.first``."""

    name: str
    prepares: bool
    inferences: int
    skipped: int

    def opens(self, frame: Frame) -> bool:
        """Return whether to run on a frame."""

    def infer(self, predictor: Predictor, frame: Frame, prepared: Prepared | None) -> Any:
        """Run on a frame; raises as ``Predictor.infer``."""

    def finish(self, predictor: Predictor, inferred: Any) -> Timed:
        """Return what was found; raises as ``Predictor.finish``."""


class LaterStages(Protocol):
    """The models after the first, see ``edgekit.pipeline.stages.graph``; in one thread at a time."""

    @property
    def looks(self) -> bool:
        """Whether ``look`` does anything."""

    def look(self, frame: Frame) -> None:
        """Run what needs no items, once for a frame, before ``step``; what fails is said there."""

    def step(
        self, frame: Frame, prediction: Prediction
    ) -> tuple[Prediction, list[Event], EdgekitError | None]:
        """Return all items, more events, and the error of a stage that failed."""

    def versions(self) -> dict[str, str]:
        """Return the version of each model."""

    def documents(self) -> list[dict[str, Any]]:
        """Return the rows of the summary."""

    def close(self) -> None:
        """Leave the lanes of the models."""


@dataclass
class Rules:
    """A pipeline's configuration of its loop.

    ``watch``: follows the objects of ``[track]`` and makes the events, in place of the debounce.
    ``max_errors``: how many failed frames in a row end the run. ``keeper``: of a live source's ``[budget]``.
    ``allowance_s``: how long a frame may wait where several pipelines use the model, see ``Lane.stream``.
    ``switch``: while it is off, no frame is taken.
    """

    debounce: Debounce = field(default_factory=Debounce)
    redactor: Redactor | None = None
    watch: Watch | None = None
    first: FirstStage | None = None
    graph: LaterStages | None = None
    max_errors: int = 30
    keeper: Keeper | None = None
    allowance_s: float = ALLOWANCE_S
    switch: Switch = field(default_factory=Switch)


@dataclass(slots=True)
class Job:
    """One frame after inference, with the outputs or the error; with neither if no model looked at it."""

    frame: Frame
    predictor: Predictor
    inferred: Any = None
    error: EdgekitError | None = None
    made_ns: int = field(default_factory=time.perf_counter_ns)
    later_ms: float = 0.0
    """What the later models took after this one had ended, and before its outputs were decoded."""


class Finisher:
    """A thread that does one job after the other; two may be queued.

    ``on_fatal`` is called once, when it cannot go on; then ``error`` says why. ``on_room`` is called when
    ``has_room`` becomes true. ``on_kept`` is called with the identity of each frame that the sinks keep, or
    that failed, on any thread.
    """

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        rules: Rules,
        tally: Tally,
        on_fatal: Callable[[], None],
        on_room: Callable[[], None],
        on_kept: Callable[[str], object] | None = None,
    ) -> None:
        self._name, self._sinks, self._rules, self._tally = name, tuple(sinks), rules, tally
        self._on_fatal, self._on_room, self._on_kept = on_fatal, on_room, on_kept
        self._events = EventMaker(rules.debounce, lambda: os.urandom(8).hex())
        self._work: SimpleQueue[Job | Frame | None] = SimpleQueue()
        """Jobs, frames that the first model has begun, and None at the end."""
        self._given = self._taken = 0
        self._ahead_ns = 0
        """When the later models last ended a frame on which the first one had begun."""
        self._idle = threading.Condition()
        self._waiters = 0
        self._failed_in_a_row = 0
        self.done = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"finish-{name}")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def has_room(self) -> bool:
        """Return whether another job may be given."""
        return self._given - self._taken < ROOM

    def give(self, job: Job) -> None:
        """Queue a job; from one thread at a time."""
        self._given += 1
        self._work.put(job)

    def expect(self, frame: Frame) -> None:
        """Say which frame the first model begins: stages that need nothing of it run now, beside it.

        Not if this thread is still at work when the job of the frame is given.
        """
        if self._rules.graph is not None and self._rules.graph.looks:
            self._work.put(frame)

    def wait_idle(self) -> None:
        """Wait until every job is done."""
        with self._idle:
            self._waiters += 1
            self._idle.wait_for(lambda: self.done == self._given)
            self._waiters -= 1

    def end(self) -> None:
        """Finish the queued jobs and end the thread, then close the sinks."""
        self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        for sink in self._sinks:
            self._close(sink)

    # -- its own thread

    def _run(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Do what comes next; False at the end. A function, to let go of the frame."""
        work = self._work.get()
        if isinstance(work, Frame):
            self._look_ahead(work)
        elif work is not None:
            self._do(work)
        return work is not None

    def _do(self, job: Job) -> None:
        self._taken += 1
        if self._given - self._taken == ROOM - 1:
            self._on_room()
        try:
            self._finish(job)
        except Exception as error:  # noqa: BLE001 - handed to the thread that runs the loop
            self.error = error
            self._on_fatal()
        self.done += 1
        if self._waiters:  # counted before it looks at ``done``
            with self._idle:
                self._idle.notify_all()

    def _look_ahead(self, frame: Frame) -> None:
        if self._given > self._taken:  # its job is here
            return
        assert self._rules.graph is not None
        try:
            self._rules.graph.look(frame)
        except Exception as error:  # noqa: BLE001 - handed to the thread that runs the loop
            self.error = error
            self._on_fatal()
        self._ahead_ns = time.perf_counter_ns()

    def _finish(self, job: Job) -> None:
        if self.error is not None:  # the run is over: later frames count as dropped
            self._tally.dropped += 1
            return
        try:
            timed = self._timed(job)
        except EdgekitError as error:
            job.predictor.failed()
            self._tally.failed += 1
            self._failed(error)
            self._left_out(job.frame)
            return
        if timed is None and self._rules.watch is None:
            self._tally.skipped += 1
            self._left_out(job.frame)
            return
        result, problem = self._result(job, timed)
        if problem is None:
            self._failed_in_a_row = 0
        else:
            self._tally.stage_errors += 1
            self._failed(problem)
        self._tally.events += len(result.events)
        began_ns = time.perf_counter_ns()
        self._write_all(result)
        result.stage_ms["sink"] = (time.perf_counter_ns() - began_ns) / 1e6
        done_ns, stage_ms = time.monotonic_ns(), result.stage_ms
        self._tally.finished(job.frame, done_ns, stage_ms)
        if self._rules.keeper is not None:
            work_ms = sum(stage_ms.get(stage, 0.0) for stage in ("pre", "infer", "post", "later", "sink"))
            self._rules.keeper.finished(job.frame, (done_ns - job.frame.captured_ns) / 1e6, work_ms)

    def _timed(self, job: Job) -> Timed | None:
        """Return what the first model found; None if it did not look."""
        if job.error is not None:
            raise job.error
        if job.inferred is None:
            return None
        if self._rules.graph is not None:
            job.later_ms = self._looked_ms(job)
        if self._rules.first is not None:
            return self._rules.first.finish(job.predictor, job.inferred)
        return job.predictor.finish(job.inferred)

    def _looked_ms(self, job: Job) -> float:
        """Have the stages on frames look, if they have not; return what they add to the first one's time."""
        assert self._rules.graph is not None
        began_ns, before_ns = time.perf_counter_ns(), max(0, self._ahead_ns - job.made_ns)
        self._rules.graph.look(job.frame)
        return (before_ns + time.perf_counter_ns() - began_ns) / 1e6

    def _failed(self, error: EdgekitError) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row == 1:
            logger.warning("a frame failed: %s", error, extra={"pipeline": self._name})
        if self._failed_in_a_row >= self._rules.max_errors:
            raise error

    def _result(self, job: Job, timed: Timed | None) -> tuple[Result, EdgekitError | None]:
        """Return a frame's result, and the error of a later stage; then the frame's pixels are hidden."""
        frame, manifest, rules, error = job.frame, job.predictor.manifest, self._rules, None
        stage_ms = {"capture": float(frame.meta.get("capture_ms", 0.0))}
        if timed is not None:
            stage_ms |= {"pre": timed.pre_ms, "infer": timed.infer_ms, "post": timed.post_ms}
        prediction, events = self._seen(job, timed)
        versions = {}
        if rules.graph is not None:
            began_ns = time.perf_counter_ns()
            prediction, more, error = rules.graph.step(frame, prediction)
            stage_ms["later"] = job.later_ms + (time.perf_counter_ns() - began_ns) / 1e6
            events = (*events, *more)
            versions = {manifest.model: manifest.version, **rules.graph.versions()}
        if rules.redactor is not None:
            if error is not None:
                frame.data[:] = 0
            rules.redactor.apply(frame.data, prediction)
        stage_ms["latency"] = (time.monotonic_ns() - frame.captured_ns) / 1e6
        result = Result(
            pipeline=self._name,
            frame=frame,
            prediction=prediction,
            events=events,
            model=manifest.model,
            version=manifest.version,
            variant=job.predictor.variant.id,
            stage_ms=stage_ms,
            versions=versions,
            trace_id=frame.meta.get(TRACE_ID) or os.urandom(16).hex() if events else "",
            is_again=frame.meta.get(IS_AGAIN, False),
        )
        return result, error

    def _seen(self, job: Job, timed: Timed | None) -> tuple[Prediction, tuple[Event, ...]]:
        """Return what the first model found, followed where that is asked for, and what happened."""
        frame, watch = job.frame, self._rules.watch
        if timed is None:
            assert watch is not None
            return watch.carry(frame, job.predictor.manifest.task), ()
        prediction = timed.prediction
        if watch is not None:
            return watch.step(frame, prediction, job.predictor.threshold)
        events = self._events.step(prediction, frame.seq, frame.captured_ns, frame.captured_unix_ms)
        return prediction, events

    def _left_out(self, frame: Frame) -> None:
        if self._on_kept is not None:
            self._on_kept(frame.meta[IDENTITY])

    def _write_all(self, result: Result) -> None:
        receipt = None
        if self._on_kept is not None:  # what waits for a network must not keep the pixels
            receipt = Receipt(functools.partial(self._on_kept, result.frame.meta[IDENTITY]))
            result.hold = receipt.hold
        for sink in self._sinks:
            self._write(sink, result)
        if receipt is not None:
            receipt.release()

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
