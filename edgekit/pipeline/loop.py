"""The loop of one pipeline: capture, inference and decoding overlap, and every loss is counted.

One thread reads the source, the lane of the model does inference, one thread decodes and writes to the sinks.
Frames wait for the lane in a stream: of a live source the latest frame wins, of a file a bounded number waits
and none is lost. Between the last two threads two frames may wait.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgekit.base.lane import SWITCH_INTERVAL_S, Lane
from edgekit.base.stream import Stream
from edgekit.core.errors import AcceleratorLostError, EdgekitError
from edgekit.core.ports import Frame, Sink, Source
from edgekit.pipeline.finisher import Finisher, Job, Rules
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.stats import Tally
from edgekit.pipeline.timed import Prepared

__all__ = ["Loop", "Rules"]

logger = logging.getLogger(__name__)

POLL_S = 0.125
"""How often a running loop looks whether a frame is due; twice for each decision of the budget."""
JOIN_S = 5.0
_HALF_US = 5e-7
"""CPython cuts an interval to whole microseconds: one that is set as it was read is shorter each time."""
STALL_S = 10.0
"""A source that is silent for longer, without ``due_s``, no longer feeds the watchdog."""


class Loop:
    """Runs one pipeline until its source ends, a limit is reached, or ``stop``.

    It opens and closes the source, closes the sinks, and does not own the predictor.

    Args:
        name: The pipeline's.
        source: Where frames come from.
        predictor: What runs at first.
        sinks: Where results go.
        rules: The rest of the pipeline's configuration.
        failover: Returns another predictor when the accelerator is lost or the model is wrong (and closes the
            lost one), or raises; without it the loss ends the run. Called on the lane's thread.
        recheck: Called on the lane's thread between two frames, with the predictor and how many frames wait:
            it may check the model on one sample, returns whether to call it again at once, and raises where
            the model is wrong; then ``failover`` is called. Not with ``lane``, whose owner sets ``between``.
        lane: The lane of a model with several users, for whoever owns it; else the loop has one of its own.
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
        recheck: Callable[[Predictor, int], bool] | None = None,
        lane: Lane | None = None,
    ) -> None:
        if lane is not None and recheck is not None:
            raise ValueError("the owner of a lane checks its model: set Lane.between, not recheck")
        self._name, self._source = name, source
        self._predictor = predictor
        self._rules = rules or Rules()
        self._failover = failover
        self._recheck = recheck or (lambda _predictor, _waiting: False)
        self._keeper = self._rules.keeper
        self.tally = Tally()
        """The counters, live."""
        self._owns_lane = lane is None
        self._lane = lane or Lane(f"infer-{name}", between=None if recheck is None else self._check)
        self._stopping = threading.Event()
        self._finisher = Finisher(
            *(name, sinks, self._rules, self.tally, self._stopping.set, self._nudge),
            on_kept=getattr(source, "finished", None),
        )
        self._stream: Stream[Frame] = self._lane.stream(
            self._infer,
            is_live=source.is_live,
            capacity=getattr(source, "slots", 1),
            allowance_s=self._rules.allowance_s,
            has_room=self._has_room,
        )
        self._holding = threading.Lock()
        self._holds = 0
        self._limit: int | None = None
        self._taken = self._heard_ns = self._idle = 0
        self._capture_error: Exception | None = None

    @property
    def progress(self) -> int:
        """Grows with each finished frame, and while none is due; for the watchdog."""
        return self._finisher.done + self._idle

    @property
    def predictor(self) -> Predictor:
        """The current predictor."""
        return self._predictor

    def source_state(self) -> dict[str, Any]:
        """Return a camera's or line's state and last fault, and the source's own counters."""
        return {**getattr(self._source, "state", dict)(), **getattr(self._source, "counts", dict)()}

    def stats(self) -> dict[str, Any]:
        """Return the document of ``edgekit run --json``."""
        predictor, source = self._predictor, self.source_state()
        return {
            "pipeline": self._name,
            "model": predictor.manifest.model,
            "version": predictor.manifest.version,
            "variant": predictor.variant.id,
            "backend": predictor.variant.backend,
            "accelerator": predictor.backend.accelerator,
            **self.tally.document(),
            **({"source": source} if source else {}),
            **({} if self._keeper is None else {"budget": self._keeper.document()}),
            **self.places(),
            **({"stages": rows} if (rows := self.stage_rows()) else {}),
        }

    def places(self) -> dict[str, Any]:
        """Return how many objects were followed, and what zones and lines counted; nothing without them."""
        return {} if self._rules.watch is None else self._rules.watch.document()

    def stage_rows(self) -> list[dict[str, Any]]:
        """Return a row for each stage of a pipeline of several models; none for one model."""
        first, graph, manifest = self._rules.first, self._rules.graph, self._predictor.manifest
        if first is None or graph is None:
            return []
        row = {
            "name": first.name,
            "model": manifest.model,
            "version": manifest.version,
            "variant": self._predictor.variant.id,
            "on": "frames",
            "inferences": first.inferences,
            "skipped": first.skipped,
            "errors": self.tally.failed,
            "infer_ms": self.tally.document()["stage_ms"]["infer"],
        }
        return [row, *graph.documents()]

    def stop(self) -> None:
        """End the run after the current frame; safe from any thread and a signal handler."""
        self._stopping.set()

    def fail(self, error: Exception) -> None:
        """End the run with an error: no frame that waits is inferred."""
        self._stream.fail(error)
        self._stopping.set()

    def swap(self, new: Predictor) -> Predictor:
        """Replace the predictor (with a warm one) between two frames, losing none; return the old one."""
        with self.held():
            self.wait_still()
            return self._lane.call(lambda: self.use(new))

    def use(self, new: Predictor) -> Predictor:
        """Do what ``swap`` does, on the lane's thread, for a caller that holds a loop of several models."""
        self._settle()
        old, self._predictor = self._predictor, new
        return old

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Begin no other frame meanwhile; frames of the source wait."""
        with self._holding:
            self._holds += 1
        try:
            yield
        finally:
            with self._holding:
                self._holds -= 1
            self._nudge()

    def wait_still(self) -> None:
        """Wait until no frame is in work, while it is ``held``; not on the thread of a model's lane."""
        self._lane.call(lambda: None)  # what the lane had begun is with the finisher now
        self._finisher.wait_idle()

    def run(self, *, frames: int | None = None, seconds: float | None = None) -> dict[str, Any]:
        """Run the pipeline, up to so many frames or seconds; return the final ``stats()``.

        Raises:
            SourceError: The source cannot be opened, or vanished for good.
            EdgekitError: Too many frames in a row failed (the last one's error), or the accelerator
                is lost and nothing takes over.
        """
        interval = sys.getswitchinterval()
        is_longer = interval > SWITCH_INTERVAL_S
        capture = threading.Thread(target=self._capture, name=f"capture-{self._name}")
        self._limit = frames
        try:
            self._source.open()
            if self._keeper is not None:
                self._keeper.begin(self._source)
            if is_longer:  # a host has a shorter one
                sys.setswitchinterval(SWITCH_INTERVAL_S)
            self._heard_ns = time.monotonic_ns()
            self._finisher.start()
            capture.start()
            self._watch(seconds)
            self._stream.close(discard=self._source.is_live)
            self._stream.wait_spent()  # what a lossless source has delivered is finished
        finally:
            self._shut_down(capture)
            if is_longer and self._owns_lane:  # else other loops of this process may still run
                sys.setswitchinterval(interval + _HALF_US)
        for error in (self._stream.error, self._finisher.error, self._capture_error):
            if error is not None:
                raise error
        return self.stats()

    # -- the caller's thread

    def _watch(self, seconds: float | None) -> None:
        """Wait for the end, and see meanwhile to the watchdog and the budget."""
        end_s = math.inf if seconds is None else time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._rules.switch.tick()
            if self._stopping.wait(min(POLL_S, left_s)):
                return
            if self._stream.is_idle and self._is_none_due():
                self._idle += 1
            if self._keeper is not None:
                self._keeper.tick(self._predictor)
        self._stopping.set()

    def _is_none_due(self) -> bool:
        due_s = getattr(self._source, "due_s", STALL_S) if self._rules.switch.is_on else None
        return due_s is None or time.monotonic_ns() - self._heard_ns < due_s * 1e9

    def _shut_down(self, capture: threading.Thread) -> None:
        self._stopping.set()
        self._stream.close(discard=True)
        self._source.close()
        self._stream.wait_spent()
        if capture.ident is not None:
            capture.join(JOIN_S)
            if capture.is_alive():
                logger.error("the source does not return from its read", extra={"pipeline": self._name})
        self._finisher.end()
        if self._rules.graph is not None:
            self._rules.graph.close()
        self.tally.left_over()
        if self._owns_lane:
            self._lane.close()
        if self._keeper is not None:
            self._keeper.end()

    # -- capture thread

    def _capture(self) -> None:
        """Read the source into the stream, and end the run once all of it is inferred."""
        taken = 0
        try:
            while self._wait_until_on() and self._stream.wait_for_room():
                began_ns = time.perf_counter_ns()
                frame = self._source.read()
                if frame is None:
                    break
                frame.meta.setdefault("capture_ms", (time.perf_counter_ns() - began_ns) / 1e6)
                self._heard_ns = time.monotonic_ns()
                if not self._offer(frame):
                    break
                self.tally.captured = frame.seq + 1
                taken += 1
                if not self._source.is_live and taken == self._limit:
                    break
        except Exception as error:  # noqa: BLE001 - handed to the thread that owns this one
            if not self._stopping.is_set():
                self._capture_error = error
        finally:
            # what a source left out after its last frame has no frame that would show the gap
            self.tally.captured = max(self.tally.captured, getattr(self._source, "next_seq", 0))
            self._stream.close()
            self._stream.wait_spent()
            self._stopping.set()

    def _wait_until_on(self) -> bool:
        """Wait for the switch where the source can wait too; return False at the end of the run."""
        switch = self._rules.switch
        while not (self._source.is_live or switch.is_on or self._stopping.is_set()):
            switch.wait_on(POLL_S)
        return not self._stopping.is_set()

    def _offer(self, frame: Frame) -> bool:
        """Have a frame wait for the lane, or leave it out to keep the budget; False at the end."""
        if not self._source.is_live:
            frame.meta["prepared"] = self._prepared(frame)
        elif not self._rules.switch.is_on or (self._keeper is not None and not self._keeper.takes(frame)):
            return True  # counted as dropped with the next one
        return self._stream.put(frame)

    def _prepared(self, frame: Frame) -> Prepared | None:
        if self._rules.first is not None and not self._rules.first.prepares:
            return None
        if self._stream.is_idle:  # capture is the limit: the lane prepares while the next frame is decoded
            return None
        try:
            return self._predictor.prepare(frame.data)
        except EdgekitError:
            return None  # inference fails again and counts it

    # -- the lane's thread

    def _has_room(self) -> bool:
        return not self._holds and self._finisher.has_room()

    def _infer(self, frame: Frame) -> None:
        self._taken += 1
        if self._taken == self._limit:  # a live source could give more
            self._stream.close(discard=True)
            self._stopping.set()
        self.tally.took(frame)
        try:
            job = self._tried(frame)
        except Exception as error:  # noqa: BLE001 - handed to the thread that runs the loop
            self.fail(error)
        else:
            self._finisher.give(job)

    def _tried(self, frame: Frame) -> Job:
        prepared, predictor, first = frame.meta.pop("prepared", None), self._predictor, self._rules.first
        if first is not None and not first.opens(frame):
            return Job(frame, predictor)
        self._finisher.expect(frame)
        try:
            return Job(frame, predictor, self._inferred(frame, prepared))
        except AcceleratorLostError as lost:
            return self._second_try(frame, lost)
        except EdgekitError as error:
            return Job(frame, predictor, error=error)

    def _inferred(self, frame: Frame, prepared: Prepared | None) -> Any:
        if self._rules.first is not None:
            return self._rules.first.infer(self._predictor, frame, prepared)
        return self._predictor.infer(frame.data, prepared)

    def _second_try(self, frame: Frame, lost: AcceleratorLostError) -> Job:
        self._predictor.failed()
        try:
            self._take_over(lost)
        except EdgekitError:
            self.tally.failed += 1
            raise
        try:
            return Job(frame, self._predictor, self._inferred(frame, None))
        except AcceleratorLostError:
            self.tally.failed += 1
            raise
        except EdgekitError as error:
            return Job(frame, self._predictor, error=error)

    def _check(self, waiting: int) -> bool:
        """Check the model between two frames, if the lane is this loop's own."""
        try:
            return self._checked(waiting)
        except Exception as error:  # noqa: BLE001 - handed to the thread that runs the loop
            self.fail(error)
            return False

    def _checked(self, waiting: int) -> bool:
        try:
            return self._recheck(self._predictor, waiting)
        except EdgekitError as wrong:
            self._take_over(wrong)
            return False

    def _settle(self) -> None:
        """Have what was inferred finished; not with later stages, which may wait for this very lane."""
        if self._rules.graph is None:
            self._finisher.wait_idle()

    def _take_over(self, lost: EdgekitError) -> None:
        self._settle()
        if self._failover is None:
            raise lost
        logger.warning("another variant takes over: %s", lost, extra={"pipeline": self._name})
        self._predictor = self._failover(self._predictor, lost)
        self.tally.failovers += 1

    # -- the finisher's thread

    def _nudge(self) -> None:
        self._stream.nudge()
