"""Post-training int8 quantisation: scale and zero point of every tensor.

Weights: signed, symmetric, one scale for each output channel. Activations: one scale and zero
point for each tensor. The same parameters go into the TensorFlow Lite file (int8) and the ONNX
file (uint8, zero point 128 higher), so both compute the same integers. Layers may stay in float;
``with_borders`` inserts the conversions between integer and float layers.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", Jacob et al. 2018; TensorFlow Lite 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import RESIZES
from edgekit_optimize.graph.network import WEIGHTED, Array, Layer, Network
from edgekit_optimize.graph.ranges import Ranges, observe

__all__ = ["Affine", "Quantized", "Ranges", "affine", "observe", "quantize", "simulate", "with_borders"]

# These only move or compare integers, so inputs and output share scale and zero point.
_SAME_SCALE: frozenset[str] = RESIZES | {
    "reshape",
    "concat",
    "max_pool",
    "average_pool",
    "pad",
    "transpose",
    "slice",
    "minimum",
    "maximum",
    "reduce_max",
    "depth_to_space",
}
# Source: TensorFlow Lite 8-bit quantization specification: the kernels require exactly these.
_FIXED = {
    "softmax": (0.0, 255.0 / 256.0),
    "sigmoid": (0.0, 255.0 / 256.0),
    "tanh": (-1.0, 127.0 / 128.0),
}
NO_INTEGERS: frozenset[str] = frozenset({"div", "exp", "sqrt", "abs", "neg"})
"""Layers without an int8 kernel, which always stay in float."""


@dataclass(frozen=True)
class Affine:
    """``real = scale * (integer - zero_point)``, integers in -128..127."""

    scale: float
    zero_point: int

    def encode(self, values: Array) -> NDArray[np.int8]:
        """Return the nearest int8 values, saturated."""
        steps = np.round(values / self.scale) + self.zero_point
        return np.asarray(np.clip(steps, -128, 127), np.int8)

    def decode(self, integers: NDArray[np.int8]) -> Array:
        """Return the float32 values of these integers."""
        return ((integers.astype(np.float32) - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Quantized:
    """Quantisation parameters of a network, as the int8 writers need them.

    ``activations`` has a scale and zero point for each integer tensor; all other tensors are float.
    ``floats`` names the layers (by their outputs) that compute in float.
    """

    activations: dict[str, Affine]
    floats: frozenset[str] = frozenset()
    per_channel: bool = True
    dense_per_channel: bool = True

    def has_channels(self, layer: Layer) -> bool:
        """Return whether a layer's weights have one scale per output channel."""
        return self.dense_per_channel if layer.kind == "dense" else self.per_channel

    def weights(self, layer: Layer) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
        """Return a layer's int8 weights, the scale of each output channel, and the int32 bias."""
        weights, bias = layer.parameters()
        axes = (0, 1, 2) if layer.kind == "depthwise" else tuple(range(1, weights.ndim))
        largest = np.abs(weights).max(axis=axes)
        source = self.activations[layer.inputs[0]].scale
        # A channel of zeros, or a bias far larger than its weights, must not overflow 32 bits.
        floor = np.maximum(np.abs(bias) / (source * 2.0**30), 1e-9)
        scale = np.maximum(largest / 127.0, floor).astype(np.float32)
        if not self.has_channels(layer):
            scale = np.full_like(scale, scale.max())
        spread = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (weights.ndim - 1))
        integers = np.clip(np.round(weights / spread), -127, 127).astype(np.int8)
        return integers, scale, np.round(bias / (source * scale)).astype(np.int32)


def affine(low: float, high: float) -> Affine:
    """Return the parameters that cover a range and represent zero exactly.

    >>> affine(0.0, 255.0)
    Affine(scale=1.0, zero_point=-128)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-6) / 255.0))
    return Affine(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def quantize(
    network: Network,
    ranges: Ranges,
    fixed: Mapping[str, Affine] | None = None,
    *,
    keep_float: Collection[str] = (),
    per_channel: bool = True,
    dense_per_channel: bool = True,
) -> Quantized:
    """Return scale and zero point of every activation.

    The inputs and outputs of reshapes, pools, pads and concatenations share them, since those
    operations only copy integers.

    Args:
        network: The float network.
        ranges: As ``observe`` or ``calibrate`` returns them.
        fixed: Parameters that replace the observed ranges, such as the input's.
        keep_float: Names of the layers to leave in float.
        per_channel: One weight scale per output channel instead of one per tensor.
        dense_per_channel: The same for dense layers; older accelerators need one scale per tensor.

    Raises:
        ModelError: ``keep_float`` names a layer that the network does not have.
    """
    floats = _kept(network, keep_float)
    views = _Views(network, floats)
    groups = _grouped(network, views)
    spans: dict[str, tuple[float, float]] = {}
    for name, group in groups.items():
        low, high = spans.get(group, (0.0, 0.0))
        source = views.source.get(name, name)
        spans[group] = (min(low, ranges.low[source]), max(high, ranges.high[source]))
    for layer in network.layers:
        if layer.kind in _FIXED and layer.output in groups:
            spans[groups[layer.output]] = _FIXED[layer.kind]
    parameters_of = {group: affine(*span) for group, span in spans.items()}
    for name, parameters in (fixed or {}).items():
        if name in groups:
            parameters_of[groups[name]] = parameters
    activations = {name: parameters_of[group] for name, group in groups.items()}
    return Quantized(activations, floats, per_channel, per_channel and dense_per_channel)


def _kept(network: Network, keep_float: Collection[str]) -> frozenset[str]:
    """Return the outputs of the layers that stay in float."""
    known_names = {name for layer in network.layers for name in layer.names()}
    unknown = sorted(set(keep_float) - known_names)
    if unknown:
        raise ModelError(
            f"cannot keep {unknown[0]!r} in float: the network has no such layer",
            hint="name layers by their output tensors in the ONNX form",
        )
    requested = set(keep_float)
    return frozenset(
        layer.output
        for layer in network.layers
        if layer.kind != "constant" and (layer.kind in NO_INTEGERS or layer.names() & requested)
    )


class _Views:
    """The names of converted copies of tensors, and which tensor each is a copy of.

    An integer layer reads a float tensor as ``NAME/int8``; a float layer reads an integer tensor as
    ``NAME/real``; a layer that only moves integers reads a tensor in ``split`` as ``NAME/again``,
    requantised to that layer's own scale.
    """

    def __init__(self, network: Network, floats: frozenset[str], split: Collection[str] = ()) -> None:
        self.network, self.floats, self.split = network, floats, frozenset(split)
        self.source: dict[str, str] = {}
        readers: dict[str, list[bool]] = {}
        for layer in network.layers:
            for name in layer.inputs:
                readers.setdefault(name, []).append(layer.output in floats)
        loose = [*network.inputs, *(layer.output for layer in network.layers if layer.kind == "constant")]
        self.reals = floats | {name for name in loose if readers.get(name) and all(readers[name])}
        for layer in network.layers:
            for name in layer.inputs:
                view = self.of(layer, name)
                if view != name and not view.endswith("/real"):
                    self.source[view] = name

    def of(self, layer: Layer, name: str) -> str:
        """Return the name of the copy of an input that a layer reads."""
        if layer.output in self.floats:
            return name if name in self.reals else f"{name}/real"
        if name in self.reals:
            return f"{name}/int8"
        if name in self.split and layer.kind in _SAME_SCALE:
            return f"{name}/again"
        return name

    def integers(self) -> list[str]:
        """Return the names of all integer tensors, converted copies included."""
        names = [*self.network.inputs, *(layer.output for layer in self.network.layers)]
        return [name for name in names if name not in self.reals] + list(self.source)


def _grouped(network: Network, views: _Views) -> dict[str, str]:
    """Return, for each integer tensor, the representative of its group of equal scale and zero point."""
    group = {name: name for name in views.integers()}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for layer in network.layers:
        if layer.kind in _SAME_SCALE and layer.output not in views.floats:
            for name in layer.inputs:
                group[root(views.of(layer, name))] = root(layer.output)
    groups = {name: root(name) for name in group}
    split = _clashing(network, views, groups)
    if not split:
        return groups
    split_views = _Views(network, views.floats, split)
    views.split, views.source = split_views.split, split_views.source
    return _grouped(network, views)


def _clashing(network: Network, views: _Views, groups: Mapping[str, str]) -> set[str]:
    """Return the tensors whose kernel requires a fixed scale that the rest of their group cannot have."""
    kinds: dict[str, set[str]] = {}
    for layer in network.layers:
        if layer.output in groups and layer.kind not in _SAME_SCALE:
            kind = str(_FIXED.get(layer.kind, "measured"))
            kinds.setdefault(groups[layer.output], set()).add(kind)
    for name in (*network.inputs, *views.source):
        if name in groups:
            kinds.setdefault(groups[name], set()).add("measured")
    return {
        layer.output
        for layer in network.layers
        if layer.kind in _FIXED
        and layer.output in groups
        and layer.output not in views.split
        and len(kinds[groups[layer.output]]) > 1
    }


def with_borders(network: Network, quantized: Quantized) -> tuple[Network, Quantized]:
    """Return the network with conversion layers between integer and float layers, and its parameters."""
    split = [name.removesuffix("/again") for name in quantized.activations if name.endswith("/again")]
    if not quantized.floats and not split:
        return network, quantized
    views = _Views(network, quantized.floats, split)
    layers: dict[str, Layer] = {}
    layer_of = {layer.output: layer for layer in network.layers}
    for layer in network.layers:
        for name in layer.inputs:
            view = views.of(layer, name)
            if view != name and view not in layers:
                layers[view] = _border(view, name, layer_of.get(name), views)
        layers[layer.output] = replace(layer, inputs=tuple(views.of(layer, name) for name in layer.inputs))
    return Network(network.inputs, tuple(layers.values()), network.outputs), quantized


def _border(view: str, name: str, producer: Layer | None, views: _Views) -> Layer:
    if producer is not None and producer.kind == "constant":
        return replace(producer, output=view)
    if view.endswith("/real"):
        return Layer("dequantize", (name,), view)
    return Layer("quantize" if name in views.reals else "requantize", (name,), view)


def simulate(network: Network, quantized: Quantized, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return every tensor with weights and integer activations rounded to int8, computed in float32.

    Approximates integer kernels, to measure the loss of a choice of ranges without a runtime.
    """
    network, quantized = with_borders(network, quantized)
    parameters = quantized.activations

    def rounded(name: str, values: Array) -> Array:
        return parameters[name].decode(parameters[name].encode(values)) if name in parameters else values

    values = {name: rounded(name, np.asarray(feeds[name], np.float32)) for name in network.inputs}
    for layer in network.layers:
        if layer.kind in WEIGHTED and layer.output in parameters:
            integers, scale, _ = quantized.weights(layer)
            spread = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (integers.ndim - 1))
            layer = replace(layer, weights=(integers * spread).astype(np.float32))  # noqa: PLW2901 - the same layer, rounded
        step = Network({name: values[name].shape for name in layer.inputs}, (layer,), (layer.output,))
        output = step.run({name: values[name] for name in layer.inputs})[layer.output]
        values[layer.output] = rounded(layer.output, output)
    return values
