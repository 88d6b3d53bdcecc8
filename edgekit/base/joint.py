"""Batches: which requests run as one, and whether that pays on this model and this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_KEPT = 0.95
_GAIN = 0.85
_TRIED_AGAIN = 64


class Fit:
    """The seconds of a run by its rows, as ``a + b * rows`` of the last runs, each weighing 5 % less.

    Source: least squares with exponential forgetting.
    """

    def __init__(self) -> None:
        self.runs = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """Count one run; an outlier counts as three times what was expected."""
        if self.runs > 3:
            seconds = min(seconds, 3 * self.cost_s(rows))
        self.runs += 1
        self._weight = _KEPT * self._weight + 1
        self._x = _KEPT * self._x + rows
        self._y = _KEPT * self._y + seconds
        self._xx = _KEPT * self._xx + rows * rows
        self._xy = _KEPT * self._xy + rows * seconds

    def cost_s(self, rows: int) -> float:
        """Return the expected seconds of a run; while all runs had as many rows, what they took."""
        if not self._weight:
            return 0.0
        spread = self._weight * self._xx - self._x * self._x
        mean_s = self._y / self._weight
        if spread < 1e-6 * self._weight * self._xx:
            return mean_s
        slope_s = max(0.0, (self._weight * self._xy - self._x * self._y) / spread)
        return max(0.0, mean_s + slope_s * (rows - self._x / self._weight))


class Joint:
    """Requests that may run at once. All that carry the same ``Joint`` may.

    Args:
        run: Called on the lane's thread with the first work of each of two or more requests; returns a
            result or an ``Exception`` for each, in their order.
        most_rows: Of one run.
    """

    def __init__(self, run: Callable[[Sequence[Callable[[], Any]]], Sequence[Any]], most_rows: int) -> None:
        self.run, self.most_rows, self.fit = run, most_rows, Fit()
        self._passed = 0

    def pays(self, rows: int, alone_s: float) -> bool:
        """Return whether a batch saves at least 15 % over so many runs of one row.

        What does not pay is tried again at every 64th occasion: the machine may have changed.
        """
        if not self.fit.runs or self.fit.cost_s(rows) <= _GAIN * rows * alone_s:
            return True
        self._passed += 1
        return self._passed % _TRIED_AGAIN == 0

    def share_s(self, alone_s: float) -> float:
        """Return the expected seconds of one row of many that wait."""
        full_s = self.fit.cost_s(self.most_rows) / self.most_rows
        return full_s if self.fit.runs and full_s <= _GAIN * alone_s else alone_s
