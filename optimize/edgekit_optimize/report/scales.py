"""Axes: the numbers at the ticks, and the positions of values in the drawing. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return about ``count`` round numbers within a range.

    >>> ticks(0, 17)
    (0.0, 5.0, 10.0, 15.0)
    >>> [round(tick, 3) for tick in ticks(0.86, 0.885)]
    [0.86, 0.865, 0.87, 0.875, 0.88, 0.885]
    """
    if not high > low:
        return (low,)
    raw = (high - low) / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999) * magnitude
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, min(last, first + 50) + 1))


def log_ticks(low: float, high: float, count: int = 6) -> tuple[float, ...]:
    """Return at most about ``count`` round numbers within a range, for a logarithmic axis.

    >>> log_ticks(0.03, 1, 5)
    (0.05, 0.1, 0.2, 0.5, 1.0)
    >>> log_ticks(3.5, 48, 8)
    (4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0)
    """
    rows = (_powers(low, high, digits) for digits in _DIGITS)
    return next((row for row in rows if len(row) <= count), _powers(low, high, _DIGITS[-1]))


_DIGITS = (("1", "1.5", "2", "3", "4", "5", "7"), ("1", "2", "3", "5"), ("1", "2", "5"), ("1",))


def _powers(low: float, high: float, digits: tuple[str, ...]) -> tuple[float, ...]:
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    powers = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
    return tuple(power for power in powers if low * 0.999 <= power <= high * 1.001)


@dataclass(frozen=True)
class Scale:
    """Maps values between ``low`` and ``high`` to positions between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return a value's position; values off the scale are put on its edge."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> tuple[float, ...]:
        """Return the values to label."""
        return log_ticks(self.low, self.high, count + 2) if self.is_log else ticks(self.low, self.high, count)


def cost_scale(values: list[float], start: float, end: float) -> Scale:
    """Return an axis for times or sizes: linear from zero up to a spread of 4, else logarithmic.

    With a larger spread the small values, which matter most, would overlap on a linear axis.
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return Scale(0.0, 1.0, start, end)
    low, high = min(positive), max(positive)
    if high > 4 * low:
        return Scale(low / 1.25, high * 1.25, start, end, is_log=True)
    return Scale(0.0, high * 1.08, start, end)


def quality_scale(values: list[float], reference: float, gate: float, start: float, end: float) -> Scale:
    """Return an axis for the metric that shows the values around the gate.

    A candidate far below (broken by quantisation) would squeeze all others together, so the axis ends a
    little below the gate, and such candidates are drawn on its edge.
    """
    span = max(reference - gate, 0.005)
    floor = gate - 3 * span
    seen = [value for value in values if value >= floor] + [reference, gate]
    low, high = min(seen), max(seen)
    pad = max((high - low) * 0.12, 0.001)
    return Scale(max(low - pad, -0.001), high + pad, start, end)
