"""The loop of one pipeline: capture, inference and decoding overlap, and every loss is counted.

Three threads: one reads the source, the caller of ``run`` does inference, one decodes and writes to the
sinks. The first two share a mailbox: for a live source one slot where the latest frame wins, for a file a
bounded lossless queue. Between the last two one frame may wait.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from edgekit.core.errors import AcceleratorLostError, EdgekitError
from edgekit.core.ports import Frame, Sink, Source
from edgekit.pipeline.finisher import Finisher, Job, Rules
from edgekit.pipeline.mailbox import Mailbox
from edgekit.pipeline.predictor import Predictor, Prepared
from edgekit.pipeline.stats import Tally

__all__ = ["Loop", "Rules"]

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 2e-4
"""How long one thread may keep the interpreter. Source: measured; at the default of 5 ms a busy
thread makes a 5.9 ms inference take 10.7 ms, at 0.2 ms it takes 5.1."""
POLL_S = 0.1
JOIN_S = 5.0
STALL_S = 10.0
"""A source that is silent for longer, without ``due_s``, no longer feeds the watchdog."""


class Loop:
    """Runs one pipeline until its source ends, a limit is reached, or ``stop``.

    It opens and closes the source, closes the sinks, and does not own the predictor. ``failover`` returns
    another predictor when the accelerator is lost (and closes the lost one), or raises; without it the loss
    ends the run.

    ``recheck`` is called between two frames, with the predictor and how many frames wait: it may check the
    model on one sample, returns whether to call it again at once, and raises where the model is wrong; then
    ``failover`` is called.
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
        recheck: Callable[[Predictor, int], bool] = lambda _predictor, _waiting: False,
    ) -> None:
        self._name, self._source = name, source
        self._predictor = predictor
        self._rules = rules or Rules()
        self._failover, self._recheck = failover, recheck
        self._keeper = self._rules.keeper
        self.tally = Tally()
        """The counters, live."""
        self._mailbox = Mailbox(is_live=source.is_live, capacity=getattr(source, "slots", 1))
        self._stopping = threading.Event()
        self._finisher = Finisher(name, sinks, self._rules, self.tally, self._stopping.set)
        self._swap: tuple[Predictor, Future[Predictor]] | None = None
        """The new predictor, and the promise of the old one."""
        self._swap_lock = threading.Lock()
        self._swap_turn = threading.Lock()
        self._is_running = False
        self._heard_ns = 0
        self._idle = 0
        self._capture_error: Exception | None = None
        self.is_inferring = False
        """Whether the model is at work, or another one is being opened in its place."""

    @property
    def progress(self) -> int:
        """Grows with each finished frame, and while none is due; for the watchdog."""
        return self._finisher.done + self._idle

    @property
    def predictor(self) -> Predictor:
        """The current predictor."""
        return self._predictor

    def stats(self) -> dict[str, Any]:
        """Return the document of ``edgekit run --json``."""
        predictor = self._predictor
        return {
            "pipeline": self._name,
            "model": predictor.manifest.model,
            "version": predictor.manifest.version,
            "variant": predictor.variant.id,
            "backend": predictor.variant.backend,
            "accelerator": predictor.backend.accelerator,
            **self.tally.document(),
            **({} if self._keeper is None else {"budget": self._keeper.document()}),
        }

    def stop(self) -> None:
        """End the run after the current frame; safe from any thread and a signal handler."""
        self._stopping.set()

    def swap(self, new: Predictor) -> Predictor:
        """Replace the predictor (with a warm one) between two frames, losing none; return the old one."""
        with self._swap_turn:
            with self._swap_lock:
                if not self._is_running:
                    old, self._predictor = self._predictor, new
                    return old
                replaced: Future[Predictor] = Future()
                self._swap = new, replaced
            self._mailbox.nudge()
            return replaced.result()

    def run(self, *, frames: int | None = None, seconds: float | None = None) -> dict[str, Any]:
        """Run the pipeline in this thread, up to so many frames or seconds; return the final ``stats()``.

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
            if self._keeper is not None:
                self._keeper.begin(self._source)
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._is_running = True
            self._heard_ns = time.monotonic_ns()
            self._finisher.start()
            capture.start()
            self._consume(frames, deadline_ns)
            self._drain()
        finally:
            self._shut_down(capture)
            sys.setswitchinterval(interval)
        for error in (self._finisher.error, self._capture_error):
            if error is not None:
                raise error
        return self.stats()

    # -- capture thread

    def _capture(self, limit: int | None) -> None:
        """Read the source into the mailbox; a lossless source no further than the limit."""
        taken = 0
        try:
            while not self._stopping.is_set() and self._mailbox.wait_for_room():
                began_ns = time.perf_counter_ns()
                frame = self._source.read()
                if frame is None:
                    break
                frame.meta.setdefault("capture_ms", (time.perf_counter_ns() - began_ns) / 1e6)
                self._heard_ns = time.monotonic_ns()
                if not self._source.is_live:  # one of a live source may yet be dropped
                    frame.meta["prepared"] = self._prepared(frame)
                if not self._mailbox.put(frame):
                    break
                self.tally.captured = frame.seq + 1
                taken += 1
                if limit is not None and not self._source.is_live and taken >= limit:
                    break
        except Exception as error:  # noqa: BLE001 - handed to the thread that owns this one
            if not self._stopping.is_set():
                self._capture_error = error
        finally:
            self._mailbox.close()

    def _prepared(self, frame: Frame) -> Prepared | None:
        try:
            return self._predictor.prepare(frame.data)
        except EdgekitError:
            return None  # inference fails again and counts it

    # -- inference thread

    def _consume(self, limit: int | None, deadline_ns: int | None) -> None:
        taken = 0
        while not self._stopping.is_set() and (limit is None or taken < limit):
            self._check()
            frame = self._mailbox.take(POLL_S)
            self._take_swap()
            if frame is not None:
                taken += 1
                self._process(frame)
            elif self._mailbox.is_spent:
                return
            elif self._is_none_due():
                self._idle += 1
            if self._keeper is not None:
                self._keeper.tick(self._predictor)
            if deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
                return

    def _check(self) -> None:
        self.is_inferring = True
        try:
            while self._recheck(self._predictor, self._mailbox.waiting):
                pass
        except EdgekitError as wrong:
            self._take_over(wrong)
        self.is_inferring = False

    def _drain(self) -> None:
        """Finish the frames that a lossless source has already delivered."""
        self._stopping.set()
        self._mailbox.close()
        while not self._source.is_live and (frame := self._mailbox.take(0)) is not None:
            self._process(frame)

    def _is_none_due(self) -> bool:
        due_s = getattr(self._source, "due_s", STALL_S)
        return due_s is None or time.monotonic_ns() - self._heard_ns < due_s * 1e9

    def _take_swap(self) -> None:
        """Do a requested swap, once no frame of the old predictor is in work."""
        if self._swap is None:
            return
        self._finisher.wait_idle()
        with self._swap_lock:
            (new, replaced), self._swap = self._swap, None
            old, self._predictor = self._predictor, new
        replaced.set_result(old)

    def _process(self, frame: Frame) -> None:
        self.tally.took(frame)
        if self._keeper is not None and not self._keeper.takes(frame):
            self.tally.dropped += 1
            return
        prepared, predictor = frame.meta.pop("prepared", None), self._predictor
        self.is_inferring = True
        try:
            job = Job(frame, predictor, predictor.infer(frame.data, prepared))
        except AcceleratorLostError as lost:
            job = self._second_try(frame, lost)
        except EdgekitError as error:
            job = Job(frame, predictor, error=error)
        self.is_inferring = False
        self._finisher.give(job)

    def _second_try(self, frame: Frame, lost: AcceleratorLostError) -> Job:
        self._predictor.failed()
        try:
            self._take_over(lost)
        except EdgekitError:
            self.tally.failed += 1
            raise
        try:
            return Job(frame, self._predictor, self._predictor.infer(frame.data))
        except AcceleratorLostError:
            self.tally.failed += 1
            raise
        except EdgekitError as error:
            return Job(frame, self._predictor, error=error)

    def _take_over(self, lost: EdgekitError) -> None:
        self._finisher.wait_idle()
        if self._failover is None:
            raise lost
        logger.warning("another variant takes over: %s", lost, extra={"pipeline": self._name})
        self._predictor = self._failover(self._predictor, lost)
        self.tally.failovers += 1

    # -- end

    def _shut_down(self, capture: threading.Thread) -> None:
        self._stopping.set()
        self._mailbox.close()
        self._source.close()
        if capture.ident is not None:
            capture.join(JOIN_S)
            if capture.is_alive():
                logger.error("the source does not return from its read", extra={"pipeline": self._name})
        self._finisher.end()
        self.tally.left_over()
        with self._swap_lock:
            self._is_running = False
        self._take_swap()
        if self._keeper is not None:
            self._keeper.end()
