"""The loop of one pipeline: capture overlapped with inference, every loss counted.

A capture thread reads the source; whoever calls ``run`` does inference and sinks. They meet in a
mailbox: one slot where the latest frame wins for a live source, a bounded lossless queue for a file.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.core.errors import AcceleratorLostError, EdgekitError
from edgekit.core.ports import Result
from edgekit.pipeline.events import Debounce, EventMaker
from edgekit.pipeline.mailbox import Mailbox
from edgekit.pipeline.redact import Redactor
from edgekit.pipeline.stats import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgekit.core.ports import Frame, Sink, Source
    from edgekit.pipeline.predictor import Predictor, Timed

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 2e-4
"""How long one thread may keep the interpreter. Source: measured; at the default of 5 ms a busy
thread makes a 5.9 ms inference take 10.7 ms, at 0.2 ms it takes 5.1."""
POLL_S = 0.1
JOIN_S = 5.0
STALL_S = 10.0
"""A source that says nothing for this long, and does not say why, no longer feeds the watchdog."""


@dataclass
class Rules:
    """How a loop behaves; what a pipeline's configuration says of it.

    ``max_errors``: so many frames in a row may fail before the loop gives up. ``budget_ms``: from
    capture to sink; a live frame that is already too old to make it is shed; 0 is no budget.
    """

    debounce: Debounce = field(default_factory=Debounce)
    redactor: Redactor | None = None
    max_errors: int = 30
    budget_ms: float = 0.0


def must_shed(age_ms: float, work_ms: float, budget_ms: float) -> bool:
    """Return whether a live frame is not worth starting, since a fresh one would keep the budget.

    Where the work alone is over the budget nothing is shed: it would help nobody.

    >>> must_shed(30, 60, 80), must_shed(10, 60, 80), must_shed(30, 90, 80)
    (True, False, False)
    """
    return 0 < work_ms <= budget_ms < age_ms + work_ms


class _Swap:
    def __init__(self, new: Predictor) -> None:
        self.new = new
        self.old: Predictor | None = None
        self.done = threading.Event()


class Loop:
    """Runs one pipeline until its source ends, a limit is reached, or ``stop``.

    Owns the source and the sinks (opened and closed with the run), not the predictor.

    Args:
        name: The pipeline's name.
        source: Where frames come from; opened by ``run``.
        predictor: What is run on them.
        sinks: Where results go.
        rules: How it behaves.
        failover: Gives another predictor when the accelerator is lost (and closes the lost one), or
            raises. None: the loss ends the run.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        predictor: Predictor,
        sinks: Sequence[Sink] = (),
        *,
        rules: Rules | None = None,
        failover: Callable[[Predictor, EdgekitError], Predictor] | None = None,
    ) -> None:
        self._name, self._source, self._sinks = name, source, tuple(sinks)
        self._predictor = predictor
        self._rules = rules or Rules()
        self._failover = failover
        self._events = EventMaker(self._rules.debounce)
        self._tally = Tally()
        self._mailbox = Mailbox(is_live=source.is_live, capacity=getattr(source, "slots", 1))
        self._stopping = threading.Event()
        self._swap: _Swap | None = None
        self._swap_lock = threading.Lock()
        self._swap_turn = threading.Lock()
        self._is_running = False
        self._failed_in_a_row = 0
        self._heard_ns = 0
        self._progress = 0
        self._capture_error: Exception | None = None

    @property
    def progress(self) -> int:
        """Grows with each frame that is finished, and while none is due. For the watchdog."""
        return self._progress

    @property
    def predictor(self) -> Predictor:
        """What runs now."""
        return self._predictor

    @property
    def tally(self) -> Tally:
        """The counters, live."""
        return self._tally

    def stats(self) -> dict[str, Any]:
        """Return what ``edgekit run --json`` prints."""
        predictor = self._predictor
        return {
            "pipeline": self._name,
            "model": predictor.manifest.model,
            "version": predictor.manifest.version,
            "variant": predictor.variant.id,
            "backend": predictor.variant.backend,
            "accelerator": predictor.backend.accelerator,
            **self._tally.document(),
        }

    def stop(self) -> None:
        """End the run after the frame in work; safe from any thread and from a signal handler."""
        self._stopping.set()

    def swap(self, new: Predictor) -> Predictor:
        """Put another predictor in place between two frames, losing none.

        Returns:
            The old one, no longer in use; its owner closes it. Warm the new one before.
        """
        with self._swap_turn:
            with self._swap_lock:
                if not self._is_running:
                    old, self._predictor = self._predictor, new
                    return old
                request = self._swap = _Swap(new)
            self._mailbox.nudge()
            request.done.wait()
        assert request.old is not None
        return request.old

    def run(self, *, frames: int | None = None, seconds: float | None = None) -> dict[str, Any]:
        """Run the pipeline in this thread.

        Args:
            frames: Stop after so many frames; None: no limit.
            seconds: Stop after so long; None: no limit.

        Returns:
            ``stats()`` at the end.

        Raises:
            SourceError: The source cannot be opened, or vanished for good.
            EdgekitError: Too many frames in a row failed (the last one's error), or the accelerator
                is lost and nothing takes over.
        """
        interval = sys.getswitchinterval()
        capture = threading.Thread(target=self._capture, args=(frames,), name=f"capture-{self._name}")
        deadline_ns = None if seconds is None else time.monotonic_ns() + int(seconds * 1e9)
        try:
            self._source.open()
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._is_running = True
            self._heard_ns = time.monotonic_ns()
            capture.start()
            self._consume(frames, deadline_ns)
            self._drain()
        finally:
            self._shut_down(capture)
            sys.setswitchinterval(interval)
        if self._capture_error is not None:
            raise self._capture_error
        return self.stats()

    # -- capture thread

    def _capture(self, limit: int | None) -> None:
        """Read the source into the mailbox; a lossless source is read no further than the limit."""
        taken = 0
        try:
            while not self._stopping.is_set() and self._mailbox.wait_for_room():
                began_ns = time.perf_counter_ns()
                frame = self._source.read()
                if frame is None:
                    break
                frame.meta.setdefault("capture_ms", (time.perf_counter_ns() - began_ns) / 1e6)
                self._heard_ns = time.monotonic_ns()
                if not self._mailbox.put(frame):
                    break
                self._tally.captured = frame.seq + 1
                taken += 1
                if limit is not None and not self._source.is_live and taken >= limit:
                    break
        except Exception as error:  # noqa: BLE001 - handed to the thread that owns this one
            if not self._stopping.is_set():
                self._capture_error = error
        finally:
            self._mailbox.close()

    # -- inference thread

    def _consume(self, limit: int | None, deadline_ns: int | None) -> None:
        taken = 0
        while not self._stopping.is_set() and (limit is None or taken < limit):
            frame = self._mailbox.take(POLL_S)
            self._take_swap()
            if frame is not None:
                taken += 1
                self._process(frame)
            elif self._mailbox.is_spent:
                return
            elif self._is_none_due():
                self._progress += 1
            if deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
                return

    def _drain(self) -> None:
        """Finish the few frames that a lossless source has handed over."""
        self._stopping.set()
        self._mailbox.close()
        while not self._source.is_live and (frame := self._mailbox.take(0)) is not None:
            self._process(frame)

    def _is_none_due(self) -> bool:
        due_s = getattr(self._source, "due_s", STALL_S)
        return due_s is None or time.monotonic_ns() - self._heard_ns < due_s * 1e9

    def _take_swap(self) -> None:
        if self._swap is None:
            return
        with self._swap_lock:
            request, self._swap = self._swap, None
            request.old, self._predictor = self._predictor, request.new
        request.done.set()

    def _process(self, frame: Frame) -> None:
        self._tally.took(frame)
        if self._source.is_live and self._rules.budget_ms and self._is_shed(frame):
            self._tally.dropped += 1
            return
        timed = self._infer(frame)
        if timed is None:
            return
        result = self._result(frame, timed)
        self._tally.events += len(result.events)
        began_ns = time.perf_counter_ns()
        for sink in self._sinks:
            self._write(sink, result)
        result.stage_ms["sink"] = (time.perf_counter_ns() - began_ns) / 1e6
        self._tally.finished(frame, time.monotonic_ns(), result.stage_ms)
        self._progress += 1

    def _is_shed(self, frame: Frame) -> bool:
        work_ms = sum(self._tally.median_ms(stage) for stage in ("pre", "infer", "post", "sink"))
        return must_shed((time.monotonic_ns() - frame.captured_ns) / 1e6, work_ms, self._rules.budget_ms)

    def _infer(self, frame: Frame) -> Timed | None:
        """Return the prediction, or None where this frame failed and the next may not."""
        try:
            timed = self._predictor.timed(frame.data)
        except AcceleratorLostError as lost:
            if self._failover is None:
                self._tally.failed += 1
                raise
            logger.warning("accelerator lost, taking over", extra={"pipeline": self._name, "why": str(lost)})
            self._predictor = self._failover(self._predictor, lost)
            self._tally.failovers += 1
            timed = self._predictor.timed(frame.data)
        except EdgekitError as error:
            self._tally.failed += 1
            self._failed_in_a_row += 1
            self._progress += 1
            if self._failed_in_a_row == 1:
                logger.warning("a frame failed", extra={"pipeline": self._name, "why": str(error)})
            if self._failed_in_a_row >= self._rules.max_errors:
                raise
            return None
        self._failed_in_a_row = 0
        return timed

    def _result(self, frame: Frame, timed: Timed) -> Result:
        prediction = timed.prediction
        events = self._events.step(prediction, frame.seq, frame.captured_ns, frame.captured_unix_ms)
        if self._rules.redactor is not None:
            self._rules.redactor.apply(frame.data, prediction.items)
        manifest = self._predictor.manifest
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
            variant=self._predictor.variant.id,
            stage_ms=stage_ms,
            raw=timed.raw,
        )

    def _write(self, sink: Sink, result: Result) -> None:
        try:
            sink.write(result)
        except EdgekitError as error:
            self._tally.sink_errors += 1
            if self._tally.sink_errors == 1:
                logger.warning("a sink failed", extra={"pipeline": self._name, "why": str(error)})

    # -- end

    def _shut_down(self, capture: threading.Thread) -> None:
        self._stopping.set()
        self._mailbox.close()
        self._source.close()
        if capture.ident is not None:
            capture.join(JOIN_S)
            if capture.is_alive():
                logger.error("the source does not let go", extra={"pipeline": self._name})
        self._tally.left_over()
        with self._swap_lock:
            self._is_running = False
        self._take_swap()
        for sink in self._sinks:
            self._close(sink)

    def _close(self, sink: Sink) -> None:
        try:
            sink.close()
        except EdgekitError as error:
            self._tally.sink_errors += 1
            logger.warning("a sink failed to close", extra={"pipeline": self._name, "why": str(error)})
