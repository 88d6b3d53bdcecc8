"""Observes the range of each activation of an ONNX model on calibration samples.

Memory is bounded: activations are observed in groups of at most 256 MB, one sample at a time, and only
their extremes and histograms are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.makers.graph import (
    blamed,
    first_line,
    float_activations,
    tensor_shapes,
    tools,
    written_by,
)
from edgekit_optimize.makers.samples import Feeds

Method = Literal["minmax", "percentile", "entropy"]
Range = tuple[float, float]
METHODS: Final[tuple[Method, ...]] = ("minmax", "percentile", "entropy")
HISTOGRAM_SAMPLES: Final = 64  # more samples hardly change the tails, but take longer
_GROUP_BYTES: Final = 256 << 20
_BINS: Final = 2048
_LEVELS: Final = 128
_KEPT_RATIO: Final = 0.9999


def observe(model: Any, samples: Sequence[Feeds], method: Method = "minmax") -> dict[str, Range]:
    """Return the range of every float activation of a model.

    Args:
        model: As ``graph.read`` returns it.
        samples: At least one; the histogram methods use at most 64.
        method: ``minmax``: the extremes; ``percentile``: the range of 99.99 % of the values;
            ``entropy``: the clipping that loses the least information.

    Raises:
        ModelError: The model cannot be run, or an activation is not finite; the message names the layer.

    Source: "8-bit Inference with TensorRT", Migacz 2017, for ``entropy``.
    """
    if method != "minmax":
        samples = samples[:: -(-len(samples) // HISTOGRAM_SAMPLES)]
    observed: dict[str, Range] = {}
    for names in _groups(model):
        run = _runner(model, names)
        extremes = _extremes(model, run, names, samples)
        if method == "minmax":
            observed |= extremes
        else:
            cut = _percentile if method == "percentile" else _entropy
            counts = _histograms(run, extremes, samples)
            observed |= {name: cut(counts[name], extremes[name]) for name in names}
    return observed


def _groups(model: Any) -> Iterator[list[str]]:
    shapes, group, size = tensor_shapes(model), list[str](), 0
    for name in float_activations(model):
        size += 4 * prod(shapes.get(name, (1 << 20,)))
        if group and size > _GROUP_BYTES:
            yield group
            group, size = [], 4 * prod(shapes.get(name, (1 << 20,)))
        group.append(name)
    if group:
        yield group


Runner = Callable[[Feeds], dict[str, NDArray[np.float32]]]


def _runner(model: Any, names: list[str]) -> Runner:
    """Return a function that runs the model on its inputs and returns these tensors."""
    onnx, onnxruntime = tools()
    inputs = {value.name for value in model.graph.input}
    outputs = [name for name in names if name not in inputs]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    if not outputs:
        return lambda feeds: {name: feeds[name] for name in names}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as cause:  # the library's exceptions have no common base
        raise ModelError(
            f"ONNX Runtime cannot run {blamed(model, str(cause))}: {first_line(cause)}",
            hint="export the model again, or replace the operator in the model",
        ) from cause

    def run(feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        values = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        return {name: values[name] if name in values else feeds[name] for name in names}

    return run


def _extremes(model: Any, run: Runner, names: list[str], samples: Sequence[Feeds]) -> dict[str, Range]:
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for feeds in samples:
        for name, values in run(feeds).items():
            if values.size:
                low[name] = float(np.minimum(low[name], values.min()))  # unlike min, propagates NaN
                high[name] = float(np.maximum(high[name], values.max()))
    for name in names:
        if not (low[name] > -np.inf and high[name] < np.inf):
            raise ModelError(
                f"the output of {written_by(model, name)} is not finite on the calibration data",
                hint="check the model's weights and the preprocessing of the calibration data",
            )
    return {name: (low[name], high[name]) if low[name] <= high[name] else (0.0, 0.0) for name in names}


def _histograms(
    run: Runner, extremes: dict[str, Range], samples: Sequence[Feeds]
) -> dict[str, NDArray[np.int64]]:
    counts = {name: np.zeros(_BINS, np.int64) for name in extremes}
    for feeds in samples:
        for name, values in run(feeds).items():
            low, high = extremes[name]
            step = max((high - low) / _BINS, 1e-30)
            bins = np.minimum(
                ((values.ravel() - np.float32(low)) / np.float32(step)).astype(np.int32), _BINS - 1
            )
            counts[name] += np.bincount(np.maximum(bins, 0), minlength=_BINS)
    return counts


def _percentile(counts: NDArray[np.int64], extremes: Range) -> Range:
    """Return the range that clips the same small share of values on either side."""
    low, high = extremes
    share = np.cumsum(counts) / max(int(counts.sum()), 1)
    step, outside = (high - low) / _BINS, (1.0 - _KEPT_RATIO) / 2
    first, last = int(np.searchsorted(share, outside)), int(np.searchsorted(share, 1.0 - outside))
    return low + first * step, low + min(last + 1, _BINS) * step


def _entropy(counts: NDArray[np.int64], extremes: Range) -> Range:
    """Return the range whose clipped, quantised histogram has the smallest divergence."""
    low, high = extremes
    largest = max(-low, high)
    if largest <= 0.0:
        return extremes
    centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
    magnitude = np.minimum((np.abs(centres) / largest * _BINS).astype(int), _BINS - 1)
    folded = np.bincount(magnitude, weights=counts, minlength=_BINS).astype(np.float64)
    # Zero is exact at any scale. A tensor that is clamped at its end means that end.
    folded[:2] = min(folded[0], folded[1], folded[2])
    if folded[-1] > 10.0 * max(folded[-_LEVELS:-1].mean(), 1.0):
        return extremes
    best = min(range(_LEVELS, _BINS + 1, _LEVELS // 8), key=lambda bins: (_divergence(folded, bins), -bins))
    limit = largest * best / _BINS
    return max(low, -limit), min(high, limit)


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    cut = counts[:bins].copy()
    cut[-1] += counts[bins:].sum()
    coarse = np.arange(bins) * _LEVELS // bins
    present = counts[:bins] > 0
    sums = np.bincount(coarse, weights=counts[:bins], minlength=_LEVELS)
    members = np.bincount(coarse, weights=present, minlength=_LEVELS)
    spread = np.where(present, (sums / np.maximum(members, 1))[coarse], 0.0)
    if spread.sum() == 0.0:
        return float("inf")
    p, q = cut / cut.sum(), spread / spread.sum()
    occupied = p > 0
    return float(np.sum(p[occupied] * np.log(p[occupied] / np.maximum(q[occupied], 1e-9))))
