"""The state of clients' sequences: each begins at zeros and goes on from its own last answer.

Source: Triton's protocol/extension_sequence.md.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.core.errors import BusyError, TensorError
from edgekit.serve.oip import Step
from edgekit.serve.ports import Servable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Feeds = Mapping[str, "NDArray[Any]"]


class Sequences:
    """The open sequences of one model; used by whoever runs the model, one at a time.

    Args:
        most: How many may be open.
        idle_s: After so long without a request one is forgotten.
        clock: Monotonic seconds.
    """

    def __init__(self, most: int, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._idle_s, self._clock = most, idle_s, clock
        self._open: OrderedDict[int | str, tuple[float, Feeds]] = OrderedDict()
        self.forgotten = 0
        """Those that were idle for too long, or whose model was replaced."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def idle_us(self) -> int:
        """After how many microseconds without a request one is forgotten."""
        return int(self._idle_s * 1e6)

    def state_before(self, step: Step, servable: Servable) -> Feeds:
        """Return the state that a sequence's next request runs on; nothing, for zeros, if it is the first.

        Raises:
            TensorError: The sequence is not open, or the model's file hides its state.
            BusyError: Too many are open.
        """
        if not servable.states:
            raise TensorError("this model's file keeps its state to itself, which no sequence can have")
        now_s = self._clock()
        self._forget_idle(now_s)
        return self._begin(step.id, now_s) if step.is_first else self._held(step.id)

    def advance(self, step: Step, servable: Servable, outputs: Feeds) -> None:
        """Keep the state that a request left, once its answer is made; forget it after the last."""
        if step.is_last:
            self._open.pop(step.id, None)
            return
        state = {into: outputs[out] for into, out in servable.states}
        self._open[step.id] = self._clock(), state
        self._open.move_to_end(step.id)

    def forget(self) -> None:
        """Forget all: the model is replaced."""
        self.forgotten += len(self._open)
        self._open.clear()

    def _held(self, name: int | str) -> Feeds:
        if name not in self._open:
            raise TensorError(
                f"sequence {name!r} is not open: its first request says sequence_start, and it is forgotten "
                f"after {self._idle_s:g} s without one, or with the model"
            )
        return self._open[name][1]

    def _begin(self, name: int | str, now_s: float) -> Feeds:
        if len(self._open) >= self._most and name not in self._open:
            oldest_s, _ = next(iter(self._open.values()))
            raise BusyError(
                f"overloaded: {self._most} sequences are open", wait_s=oldest_s + self._idle_s - now_s
            )
        return {}

    def _forget_idle(self, now_s: float) -> None:
        while self._open:
            name, (used_s, _) = next(iter(self._open.items()))
            if now_s - used_s < self._idle_s:
                return
            del self._open[name]
            self.forgotten += 1
