"""Runs a later stage's model in its lane, for the thread that finishes frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgekit.base.lane import Lane
from edgekit.base.stream import ALLOWANCE_S
from edgekit.core.errors import AcceleratorLostError, EdgekitError, InferenceError
from edgekit.core.spec import Prediction
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.timed import Inferred

POLL_S = 0.1


@dataclass(slots=True)
class _Call:
    """Some pictures of one frame, and what came of them."""

    samples: Sequence[NDArray[Any]]
    predictor: Predictor | None = None
    inferred: list[Inferred] = field(default_factory=list)
    error: Exception | None = None
    done: threading.Event | None = None
    """Of a call that waits for the lane's thread."""


class LaneModel:
    """One model of a graph. All pictures of one frame go through one version of it, at one turn of its lane.

    Args:
        predictor: What runs at first.
        lane: The model's; whoever owns it closes it.
        fail_over: Returns another predictor when the accelerator is lost, or raises; where the lane runs it.
        allowance_s: As for ``Lane.stream``.
    """

    def __init__(
        self,
        predictor: Predictor,
        lane: Lane,
        fail_over: Callable[[Predictor, EdgekitError], Predictor],
        allowance_s: float = ALLOWANCE_S,
    ) -> None:
        self.predictor, self._fail_over = predictor, fail_over
        self._lane = lane
        self._stream = lane.stream(self._do, is_live=False, capacity=1, allowance_s=allowance_s)
        self.failovers = 0
        self.error: EdgekitError | None = None
        """What it raised last."""

    def use(self, new: Predictor) -> Predictor:
        """Run another predictor from the next frame on; on the lane's thread. Return the old one."""
        old, self.predictor = self.predictor, new
        return old

    def ask(self, samples: Sequence[NDArray[Any]]) -> Callable[[], list[Prediction]]:
        """Run the model on the pictures of a frame.

        It runs in this thread while nobody else uses the model: no frame waits for two threads to wake.

        Returns:
            What decodes the model's prediction for each picture. It raises an ``EdgekitError`` where the
            model failed, or is gone, and counts the failure; call it once.
        """
        call = _Call(samples)
        if not self._lane.run_item(self._stream, call):
            self._wait(call)
        return lambda: self._predictions(call)

    def _predictions(self, call: _Call) -> list[Prediction]:
        predictor = call.predictor or self.predictor
        try:
            if call.error is not None:
                raise call.error
            found = [predictor.finish(inferred) for inferred in call.inferred]
        except EdgekitError as error:
            self.error = error
            predictor.failed()
            raise
        predictor.answered(found)
        return [timed.prediction for timed in found]

    def _wait(self, call: _Call) -> None:
        call.done = threading.Event()
        self._stream.put(call)
        while not call.done.wait(POLL_S):
            if self._stream.is_spent:
                model = self.predictor.manifest.model
                call.error = InferenceError(f"the model {model!r} was closed meanwhile")
                return

    def close(self) -> None:
        """Leave the lane."""
        self._stream.close(discard=True)

    # -- where the lane runs it

    def _do(self, call: _Call) -> None:
        try:
            call.predictor = self.predictor
            call.inferred = self._tried(call)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            call.error = error
        finally:
            if call.done is not None:
                call.done.set()

    def _tried(self, call: _Call) -> list[Inferred]:
        try:
            return self.predictor.infer_many(call.samples)
        except AcceleratorLostError as lost:
            self.predictor.failed()
            self.predictor = call.predictor = self._fail_over(self.predictor, lost)
            self.failovers += 1
            return self.predictor.infer_many(call.samples)
