"""Carries out what ``Budget`` decides, on the loop's source, frames and model."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Frame
from edgekit.pipeline.budget import Budget, Change
from edgekit.pipeline.config import BudgetTable

logger = logging.getLogger(__name__)

TICK_NS = 250_000_000
SENSORS_NS = 2_000_000_000
END_S = 5.0


class Keeper:
    """Keeps a live pipeline within its ``[budget]``; it outlives a source that is opened again.

    ``begin`` and ``tick`` belong to the thread that runs the loop, ``takes`` to that which captures,
    ``finished`` to that of the sinks.

    Args:
        table: The limits, and the order of what to give up.
        change_variant: Opens and swaps in the variant of a step, 0 being the one that is chosen here; in
            a thread of its own. Raises ``EdgekitError`` where it cannot.
        sensors: Reads ``temperature_c`` and ``power_w``.
        on_change: Called with each change in words, and whether more is given up now.
    """

    def __init__(
        self,
        table: BudgetTable,
        change_variant: Callable[[int], object],
        sensors: Callable[[], Mapping[str, float | bool]] = dict,
        on_change: Callable[[str, bool], object] = lambda _text, _is_down: None,
    ) -> None:
        limits = {"temperature_c": table.max_temperature_c, "power_w": table.max_power_w}
        self._limits = {name: limit for name, limit in limits.items() if limit}
        self._budget = Budget(table.order, table.p95_ms, self._limits)
        self._change_variant, self._read, self._on_change = change_variant, sensors, on_change
        self._finished: deque[tuple[float, int, float, float]] = deque()
        self._source: Any = None
        self._setting = self._budget.setting
        self._ticked_ns = self._read_ns = self._next_seq = self._readings = 0
        self._sensors: Mapping[str, float] = {}
        self._predictor: object = None
        self._thread: threading.Thread | None = None
        self._change: Change | None = None
        self._problem = ""

    def document(self) -> dict[str, Any]:
        """Return what is given up now ("" for nothing), and the number of changes."""
        return {"setting": self._words(self._setting), "changes": self._budget.changes}

    def begin(self, source: Any) -> None:
        """Take up a source that was just opened."""
        self._source, self._next_seq = source, 0
        if self._setting.get("resolution"):
            source.halve(self._setting["resolution"])

    def takes(self, frame: Frame) -> bool:
        """Return whether the rate leaves this frame in."""
        if frame.seq < self._next_seq:
            return False
        self._next_seq = frame.seq + 2 ** self._setting.get("rate", 0)
        return True

    def finished(self, frame: Frame, latency_ms: float, work_ms: float) -> None:
        """Note a frame that reached the sinks."""
        self._finished.append((frame.captured_ns / 1e9, frame.seq, latency_ms, work_ms))

    def tick(self, predictor: object) -> None:
        """Decide, if it is time; ``predictor`` is the one that runs."""
        now_ns = time.monotonic_ns()
        if now_ns - self._ticked_ns < TICK_NS:
            return
        self._ticked_ns = now_ns
        if self._thread is not None:
            if not self._thread.is_alive():
                self._changed(now_ns / 1e9, predictor)
            return
        if predictor is not self._predictor:  # lost, returned or updated: the best runs
            self._predictor = predictor
            self._budget.forget("variant")
            self._setting = self._budget.setting
        while self._finished:
            self._budget.finished(*self._finished.popleft())
        change = self._budget.step(now_ns / 1e9, self._read_sensors(now_ns))
        if change is None:
            return
        self._change, before = change, self._setting
        if change.setting.get("variant", 0) != before.get("variant", 0):
            step = change.setting["variant"]
            self._thread = threading.Thread(target=self._vary, args=(step,), name="budget", daemon=True)
            self._thread.start()
        else:
            self._changed(now_ns / 1e9, predictor)

    def _vary(self, step: int) -> None:
        try:
            self._problem = ""
            self._change_variant(step)
        except EdgekitError as error:
            self._problem = error.one_line()

    def _changed(self, now_s: float, predictor: object) -> None:
        """Put the rest of a change in force, once the variant is changed."""
        self._thread, change = None, self._change
        assert change is not None
        before, self._predictor = self._words(self._setting), predictor
        if self._problem:
            logger.warning("the budget cannot change the variant: %s", self._problem)
            self._problem = ""
            self._budget.refused(now_s, "variant")
        if self._budget.setting == self._setting:
            return
        if self._budget.setting.get("resolution") != self._setting.get("resolution"):
            self._source.halve(change.setting["resolution"])
        self._setting = self._budget.setting
        self._budget.applied(now_s)
        text = f"{before or 'full'} -> {self._words(self._setting) or 'full'}: {change.reason}"
        logger.log(logging.WARNING if change.is_down else logging.INFO, "budget: %s", text)
        self._on_change(text, change.is_down)

    def _words(self, setting: Mapping[str, int]) -> str:
        """Return a setting in words.

        >>> Keeper(BudgetTable(), print)._words({"rate": 2, "variant": 1})
        'rate 1/4, variant +1'
        """
        given = {name: at for name, at in setting.items() if at}
        return ", ".join(
            f"{name} +{at}" if name == "variant" else f"{name} 1/{2**at}" for name, at in given.items()
        )

    def _read_sensors(self, now_ns: int) -> Mapping[str, float]:
        if self._limits and now_ns - self._read_ns >= SENSORS_NS:
            self._read_ns, self._sensors = now_ns, self._read()
            self._readings += 1
            missing = self._limits.keys() - self._sensors.keys()
            if missing and self._readings == 2:  # power may be known from the second reading on
                logger.warning("no sensor here gives the budget's %s", ", ".join(sorted(missing)))
        return self._sensors

    def end(self) -> None:
        """Wait for a variant that is being opened."""
        if self._thread is not None:
            self._thread.join(END_S)
