"""Which values a network's tensors take: ranges from sample inputs, by three methods."""

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
_OUTSIDE = 1e-4  # share of a tensor's values that "percentile" leaves outside, on both sides together
_LEVELS = 128  # magnitudes that eight bits tell apart


@dataclass
class Ranges:
    """The smallest and largest value seen in each tensor."""

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)

    def widen(self, name: str, low: float, high: float) -> None:
        """Take these values into account.

        Raises:
            ModelError: They are not finite.
        """
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(
                f"tensor {name!r} has values that are not finite",
                hint="look for NaN in the weights of the layer that makes it, and in the calibration data",
            )
        self.low[name] = min(self.low.get(name, 0.0), low)
        self.high[name] = max(self.high.get(name, 0.0), high)


def observe(
    network: Network, samples: Iterable[Mapping[str, Array]], *, clip: float = 0.0, run: Run | None = None
) -> Ranges:
    """Run the samples and return the range of every tensor.

    Args:
        network: What to run.
        samples: Inputs by name, as the network takes them (normalised).
        clip: Share of a tensor's values that may lie outside on each side, in each sample.
        run: What computes the tensors; the network itself, in NumPy, where it is None.

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
    """Return the range to represent of every tensor.

    ``minmax`` is all that was seen; ``percentile`` leaves out the rarest 0.01 % of a tensor's
    values over all samples; ``entropy`` clips where the clipped and rounded distribution tells
    most of the whole one.

    Args:
        network: What to run.
        samples: Gives the inputs, anew at each call: the last two methods look twice.
        method: How ranges are found.
        run: What computes the tensors; the network itself, in NumPy, where it is None.

    Raises:
        ModelError: A tensor has a value that is not finite.

    Source: "8-bit Inference with TensorRT", Migacz, GTC 2017 (entropy).
    """
    seen = observe(network, samples(), run=run)
    if method == "minmax":
        return seen
    counts: dict[str, NDArray[np.int64]] = {}
    for sample in samples():
        for name, values in (run or network.run)(sample).items():
            found, _ = np.histogram(values, _BINS, _span(seen, name))
            counts[name] = counts[name] + found if name in counts else found
    narrow = _percentile if method == "percentile" else _entropy
    ranges = Ranges()
    for name, found in counts.items():
        ranges.widen(name, *narrow(found, *_span(seen, name)))
    return ranges


def _span(ranges: Ranges, name: str) -> tuple[float, float]:
    low, high = ranges.low[name], ranges.high[name]
    return low, max(high, low + 1e-6)


def _percentile(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range between the first and last bin that hold more than the share to leave out."""
    shares = np.cumsum(counts) / max(int(counts.sum()), 1)
    first = int(np.searchsorted(shares, _OUTSIDE / 2, side="right"))
    last = int(np.searchsorted(shares, 1 - _OUTSIDE / 2))
    width = (high - low) / len(counts)
    return low + first * width, min(low + (last + 1) * width, high)


def _entropy(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range, clipped at the magnitude that loses the least information."""
    top = max(-low, high)
    centres = np.abs(low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts))
    sizes = np.histogram(centres, _BINS, (0.0, top), weights=counts.astype(np.float64))[0]
    if sizes.sum() == 0:
        return low, high
    # What is exactly zero (after a ReLU, most of it) rounds to itself and tells nothing.
    sizes[0] = 0.0
    ends = range(_LEVELS, _BINS + 1, 16)
    best = min(ends, key=lambda end: (_divergence(sizes, end), -end))
    limit = best / _BINS * top
    return max(low, -limit), min(high, limit)


def _divergence(sizes: NDArray[np.float64], end: int) -> float:
    """Return the Kullback-Leibler divergence of the first ``end`` bins to their rounded selves."""
    kept = sizes[:end]
    if kept.sum() == 0:
        return float("inf")
    reference = kept.copy()
    reference[-1] += sizes[end:].sum()
    level = np.arange(end) * _LEVELS // end
    filled = kept > 0
    totals = np.bincount(level, kept, _LEVELS)
    numbers = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, totals[level] / np.maximum(numbers[level], 1), 0.0)
    there = reference > 0
    ours = np.maximum(spread[there] / spread.sum(), 1e-9)
    theirs = reference[there] / reference.sum()
    return float((theirs * np.log(theirs / ours)).sum())
