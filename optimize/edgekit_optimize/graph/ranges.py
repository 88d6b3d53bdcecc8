"""Activation ranges of a network, from sample inputs, by three methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import Array
from edgekit_optimize.graph.network import Network

Method = Literal["minmax", "percentile", "entropy"]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Computes every tensor of a network for one sample."""

_BINS = 2048
_OUTSIDE = 1e-4  # share of values that "percentile" clips, both sides together
_LEVELS = 128  # magnitudes that int8 can distinguish


@dataclass
class Ranges:
    """The smallest and largest value seen in each tensor."""

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)

    def widen(self, name: str, low: float, high: float) -> None:
        """Extend the range of a tensor to include these values.

        Raises:
            ModelError: A value is not finite.
        """
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(
                f"tensor {name!r} has values that are not finite",
                hint="look for NaN in the weights of the layer that computes it, and in the calibration data",
            )
        self.low[name] = min(self.low.get(name, 0.0), low)
        self.high[name] = max(self.high.get(name, 0.0), high)


def observe(
    network: Network, samples: Iterable[Mapping[str, Array]], *, clip: float = 0.0, run: Run | None = None
) -> Ranges:
    """Return the range of every tensor over the samples.

    Args:
        network: What to run.
        samples: Inputs by name, as the network takes them (normalised).
        clip: Share of a tensor's values to ignore on each side, in each sample.
        run: Computes the tensors; None for the network itself, in NumPy.

    Raises:
        ModelError: A tensor has a value that is not finite.
    """
    ranges = Ranges()
    for sample in samples:
        for name, values in (run or network.run)(sample).items():
            if clip:
                low, high = np.quantile(values, (clip, 1.0 - clip))
            else:
                low, high = values.min(), values.max()
            ranges.widen(name, float(low), float(high))
    return ranges


def calibrate(
    network: Network,
    samples: Callable[[], Iterable[Mapping[str, Array]]],
    method: Method = "minmax",
    *,
    run: Run | None = None,
) -> Ranges:
    """Return the range that int8 should represent for every tensor.

    ``minmax`` covers all values; ``percentile`` clips the outermost 0.01 % of a tensor's values over
    all samples; ``entropy`` clips where the quantised distribution is closest to the original
    (Kullback-Leibler).

    Args:
        network: What to run.
        samples: Returns the inputs; called twice by the last two methods.
        method: How to choose ranges.
        run: Computes the tensors; None for the network itself, in NumPy.

    Raises:
        ModelError: A tensor has a value that is not finite.

    Source: "8-bit Inference with TensorRT", Migacz, GTC 2017 (entropy).
    """
    extremes = observe(network, samples(), run=run)
    if method == "minmax":
        return extremes
    counts: dict[str, NDArray[np.int64]] = {}
    for sample in samples():
        for name, values in (run or network.run)(sample).items():
            histogram, _ = np.histogram(values, _BINS, _span(extremes, name))
            counts[name] = counts[name] + histogram if name in counts else histogram
    clip = _percentile if method == "percentile" else _entropy
    ranges = Ranges()
    for name, histogram in counts.items():
        ranges.widen(name, *clip(histogram, *_span(extremes, name)))
    return ranges


def _span(ranges: Ranges, name: str) -> tuple[float, float]:
    low, high = ranges.low[name], ranges.high[name]
    return low, max(high, low + 1e-6)


def _percentile(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range of the histogram without the ``_OUTSIDE`` share of its values."""
    shares = np.cumsum(counts) / max(int(counts.sum()), 1)
    first = int(np.searchsorted(shares, _OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(shares, 1 - _OUTSIDE / 2))
    width = (high - low) / len(counts)
    return low + first * width, min(low + (last + 1) * width, high)


def _entropy(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range clipped at the magnitude of smallest divergence."""
    top = max(-low, high)
    centres = np.abs(low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts))
    sizes = np.histogram(centres, _BINS, (0.0, top), weights=counts.astype(np.float64))[0]
    if sizes.sum() == 0:
        return low, high
    # Exact zeros (after a ReLU, most values) have no rounding error; ignore them.
    sizes[0] = 0.0
    ends = range(_LEVELS, _BINS + 1, 16)
    best = min(ends, key=lambda end: (_divergence(sizes, end), -end))
    limit = best / _BINS * top
    return max(low, -limit), min(high, limit)


def _divergence(sizes: NDArray[np.float64], end: int) -> float:
    """Return the Kullback-Leibler divergence of the first ``end`` bins from their quantised form."""
    inside = sizes[:end]
    if inside.sum() == 0:
        return float("inf")
    reference = inside.copy()
    reference[-1] += sizes[end:].sum()
    level = np.arange(end) * _LEVELS // end
    filled = inside > 0
    totals = np.bincount(level, inside, _LEVELS)
    numbers = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, totals[level] / np.maximum(numbers[level], 1), 0.0)
    occupied = reference > 0
    quantised = np.maximum(spread[occupied] / spread.sum(), 1e-9)
    original = reference[occupied] / reference.sum()
    return float((original * np.log(original / quantised)).sum())
