"""Post-training int8: ranges from sample inputs, and the integers that stand for the reals.

Weights: signed, symmetric, one scale for each output channel. Activations: one scale and zero
point for each tensor. The same parameters go into the TensorFlow Lite file (int8) and the ONNX
file (uint8, zero point 128 higher), so both compute the same integers.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", Jacob et al. 2018; TensorFlow Lite 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.optimize.network import WEIGHTED, Array, Layer, Network

_SAME_SCALE: frozenset[str] = frozenset({"reshape", "concat", "max_pool", "pad"})
_FIXED = {"softmax": (0.0, 255.0 / 256.0), "sigmoid": (0.0, 255.0 / 256.0)}


@dataclass(frozen=True)
class Affine:
    """``real = scale * (integer - zero_point)``, integers in -128..127."""

    scale: float
    zero_point: int

    def encode(self, values: Array) -> NDArray[np.int8]:
        """Return the nearest integers, saturated."""
        steps = np.round(values / self.scale) + self.zero_point
        return np.asarray(np.clip(steps, -128, 127), np.int8)

    def decode(self, integers: NDArray[np.int8]) -> Array:
        """Return the reals that the integers stand for."""
        return ((integers.astype(np.float32) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Quantized:
    """Everything an int8 writer needs: a scale and zero point for each activation tensor."""

    activations: dict[str, Affine]

    def weights(self, layer: Layer) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
        """Return a layer's integer weights, their scale for each output channel, and integer bias."""
        weights, bias = layer.parameters()
        axes = (0, 1, 2) if layer.kind == "depthwise" else tuple(range(1, weights.ndim))
        largest = np.abs(weights).max(axis=axes)
        source = self.activations[layer.inputs[0]].scale
        # A channel of zeros, or a bias far larger than its weights, must not overflow 32 bits.
        floor = np.maximum(np.abs(bias) / (source * 2.0**30), 1e-9)
        scale = np.maximum(largest / 127.0, floor).astype(np.float32)
        spread = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (weights.ndim - 1))
        integers = np.clip(np.round(weights / spread), -127, 127).astype(np.int8)
        return integers, scale, np.round(bias / (source * scale)).astype(np.int32)


@dataclass
class Ranges:
    """The smallest and largest value seen in each tensor."""

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)

    def widen(self, name: str, low: float, high: float) -> None:
        """Take these values into account."""
        self.low[name] = min(self.low.get(name, 0.0), low)
        self.high[name] = max(self.high.get(name, 0.0), high)


def observe(network: Network, samples: Iterable[Mapping[str, Array]], *, clip: float = 0.0) -> Ranges:
    """Run the samples and return the range of every tensor.

    Args:
        network: What to run.
        samples: Inputs by name, as the network takes them (normalised).
        clip: Share of a tensor's values that may lie outside on each side, in each sample.
    """
    ranges = Ranges()
    for sample in samples:
        for name, values in network.run(sample).items():
            if clip:
                low, high = np.quantile(values, (clip, 1.0 - clip))
            else:
                low, high = values.min(), values.max()
            ranges.widen(name, float(low), float(high))
    return ranges


def affine(low: float, high: float) -> Affine:
    """Return the parameters that cover a range, zero exactly among them.

    >>> affine(0.0, 255.0)
    Affine(scale=1.0, zero_point=-128)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-6) / 255.0))
    return Affine(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def quantize(network: Network, ranges: Ranges, fixed: Mapping[str, Affine] | None = None) -> Quantized:
    """Choose the integers' meaning for each activation.

    Tensors that a reshape, pool, pad or concatenation joins share one meaning, since those
    operations only copy integers.

    Args:
        network: The float network.
        ranges: What ``observe`` saw.
        fixed: Parameters that are known better than by looking, such as the input's.
    """
    group = {name: name for name in network.shapes()}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for layer in network.layers:
        if layer.kind in _SAME_SCALE:
            for name in layer.inputs:
                group[root(name)] = root(layer.output)
    spans: dict[str, tuple[float, float]] = {}
    for name in group:
        low, high = spans.get(root(name), (0.0, 0.0))
        spans[root(name)] = (min(low, ranges.low[name]), max(high, ranges.high[name]))
    for layer in network.layers:
        if layer.kind in _FIXED:
            spans[root(layer.output)] = _FIXED[layer.kind]
    found = {key: affine(*span) for key, span in spans.items()}
    for name, parameters in (fixed or {}).items():
        found[root(name)] = parameters
    return Quantized({name: found[root(name)] for name in group})


def simulate(network: Network, quantized: Quantized, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the network with weights and every activation rounded as int8 rounds them.

    A float stand-in for what integer kernels compute, to look at the loss of a choice of ranges
    without a runtime.
    """
    layers = []
    for layer in network.layers:
        if layer.kind in WEIGHTED:
            integers, scale, _ = quantized.weights(layer)
            spread = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (integers.ndim - 1))
            rounded = (integers * spread).astype(np.float32)
            layers.append(Layer(**{**vars(layer), "weights": rounded}))
        else:
            layers.append(layer)
    values: dict[str, Array] = {}
    for name in network.inputs:
        meaning = quantized.activations[name]
        values[name] = meaning.decode(meaning.encode(np.asarray(feeds[name], np.float32)))
    for layer in layers:
        step = Network({name: values[name].shape for name in layer.inputs}, (layer,), (layer.output,))
        found = step.run({name: values[name] for name in layer.inputs})[layer.output]
        meaning = quantized.activations[layer.output]
        values[layer.output] = meaning.decode(meaning.encode(found))
    return values
