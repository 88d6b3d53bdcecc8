"""Post-training int8: what the integers that stand for the reals mean, tensor by tensor.

Weights: signed, symmetric, one scale for each output channel. Activations: one scale and zero
point for each tensor. The same parameters go into the TensorFlow Lite file (int8) and the ONNX
file (uint8, zero point 128 higher), so both compute the same integers. Layers may stay in float:
where integers meet reals, ``with_borders`` puts the conversions.

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

# These only move integers about, so what goes in means the same as what comes out.
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
# Source: TensorFlow Lite 8-bit quantization specification: the kernels want exactly these.
_FIXED = {
    "softmax": (0.0, 255.0 / 256.0),
    "sigmoid": (0.0, 255.0 / 256.0),
    "tanh": (-1.0, 127.0 / 128.0),
}
NO_INTEGERS: frozenset[str] = frozenset({"div", "exp", "sqrt", "abs", "neg"})
"""Kinds of layers that have no int8 kernel: they are left in float whoever asks."""


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
    """Everything an int8 writer needs.

    ``activations`` has a scale and zero point for each tensor that is integers; a tensor that is
    not there is float. ``floats`` names the layers (by their outputs) that compute in float.
    """

    activations: dict[str, Affine]
    floats: frozenset[str] = frozenset()
    per_channel: bool = True
    dense_per_channel: bool = True

    def has_channels(self, layer: Layer) -> bool:
        """Return whether a layer's weights have a scale for each output channel, not one for all."""
        return self.dense_per_channel if layer.kind == "dense" else self.per_channel

    def weights(self, layer: Layer) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]:
        """Return a layer's integer weights, their scale for each output channel, and integer bias."""
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
    """Return the parameters that cover a range, zero exactly among them.

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
    """Choose the integers' meaning for each activation.

    Tensors that a reshape, pool, pad or concatenation joins share one meaning, since those
    operations only copy integers.

    Args:
        network: The float network.
        ranges: What ``observe`` saw.
        fixed: Parameters that are known better than by looking, such as the input's.
        keep_float: Names of the layers to leave in float.
        per_channel: One scale for each output channel of the weights, or one for all of them.
        dense_per_channel: The same for dense layers alone; older accelerators want one scale there.

    Raises:
        ModelError: ``keep_float`` names a layer that the network does not have.
    """
    floats = _kept(network, keep_float)
    views = _Views(network, floats)
    groups = _grouped(network, views)
    spans: dict[str, tuple[float, float]] = {}
    for name, group in groups.items():
        low, high = spans.get(group, (0.0, 0.0))
        seen = views.source.get(name, name)
        spans[group] = (min(low, ranges.low[seen]), max(high, ranges.high[seen]))
    for layer in network.layers:
        if layer.kind in _FIXED and layer.output in groups:
            spans[groups[layer.output]] = _FIXED[layer.kind]
    found = {group: affine(*span) for group, span in spans.items()}
    for name, parameters in (fixed or {}).items():
        if name in groups:
            found[groups[name]] = parameters
    activations = {name: found[group] for name, group in groups.items()}
    return Quantized(activations, floats, per_channel, per_channel and dense_per_channel)


def _kept(network: Network, keep_float: Collection[str]) -> frozenset[str]:
    """Return the outputs of the layers that stay in float."""
    known = {name for layer in network.layers for name in layer.names()}
    unknown = sorted(set(keep_float) - known)
    if unknown:
        raise ModelError(
            f"cannot keep {unknown[0]!r} in float: the network has no such layer",
            hint="name layers by the output tensors they have in the ONNX form",
        )
    wanted = set(keep_float)
    return frozenset(
        layer.output
        for layer in network.layers
        if layer.kind != "constant" and (layer.kind in NO_INTEGERS or layer.names() & wanted)
    )


class _Views:
    """Under which name each layer sees each of its inputs, and which tensor that view is of.

    A float tensor is seen by an integer layer as ``NAME/int8``, an integer tensor by a float layer
    as ``NAME/real``; ``split`` tensors are seen by layers that only move integers as
    ``NAME/again``, with a meaning of that layer's own.
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
                seen = self.of(layer, name)
                if seen != name and not seen.endswith("/real"):
                    self.source[seen] = name

    def of(self, layer: Layer, name: str) -> str:
        """Return the name under which a layer sees one of its inputs."""
        if layer.output in self.floats:
            return name if name in self.reals else f"{name}/real"
        if name in self.reals:
            return f"{name}/int8"
        if name in self.split and layer.kind in _SAME_SCALE:
            return f"{name}/again"
        return name

    def integers(self) -> list[str]:
        """Return the name of every tensor that is integers, views included."""
        own = [*self.network.inputs, *(layer.output for layer in self.network.layers)]
        return [name for name in own if name not in self.reals] + list(self.source)


def _grouped(network: Network, views: _Views) -> dict[str, str]:
    """Return, for each integer tensor, the one that stands for all with the same meaning."""
    group = {name: name for name in views.integers()}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for layer in network.layers:
        if layer.kind in _SAME_SCALE and layer.output not in views.floats:
            for name in layer.inputs:
                group[root(views.of(layer, name))] = root(layer.output)
    found = {name: root(name) for name in group}
    split = _clashing(network, views, found)
    if not split:
        return found
    again = _Views(network, views.floats, split)
    views.split, views.source = again.split, again.source
    return _grouped(network, views)


def _clashing(network: Network, views: _Views, groups: Mapping[str, str]) -> set[str]:
    """Return the tensors whose kernel prescribes a meaning that the rest of their group cannot have."""
    makers: dict[str, set[str]] = {}
    for layer in network.layers:
        if layer.output in groups and layer.kind not in _SAME_SCALE:
            kind = str(_FIXED.get(layer.kind, "measured"))
            makers.setdefault(groups[layer.output], set()).add(kind)
    for name in (*network.inputs, *views.source):
        if name in groups:
            makers.setdefault(groups[name], set()).add("measured")
    return {
        layer.output
        for layer in network.layers
        if layer.kind in _FIXED
        and layer.output in groups
        and layer.output not in views.split
        and len(makers[groups[layer.output]]) > 1
    }


def with_borders(network: Network, quantized: Quantized) -> tuple[Network, Quantized]:
    """Return the network with a layer wherever integers become reals, or the other way round."""
    split = [name.removesuffix("/again") for name in quantized.activations if name.endswith("/again")]
    if not quantized.floats and not split:
        return network, quantized
    views = _Views(network, quantized.floats, split)
    layers: dict[str, Layer] = {}
    made = {layer.output: layer for layer in network.layers}
    for layer in network.layers:
        for name in layer.inputs:
            seen = views.of(layer, name)
            if seen != name and seen not in layers:
                layers[seen] = _border(seen, name, made.get(name), views)
        layers[layer.output] = replace(layer, inputs=tuple(views.of(layer, name) for name in layer.inputs))
    return Network(network.inputs, tuple(layers.values()), network.outputs), quantized


def _border(seen: str, name: str, maker: Layer | None, views: _Views) -> Layer:
    if maker is not None and maker.kind == "constant":
        return replace(maker, output=seen)
    if seen.endswith("/real"):
        return Layer("dequantize", (name,), seen)
    return Layer("quantize" if name in views.reals else "requantize", (name,), seen)


def simulate(network: Network, quantized: Quantized, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the network with weights and every integer activation rounded as int8 rounds them.

    A float stand-in for what integer kernels compute, to look at the loss of a choice of ranges
    without a runtime.
    """
    network, quantized = with_borders(network, quantized)
    meanings = quantized.activations

    def rounded(name: str, values: Array) -> Array:
        return meanings[name].decode(meanings[name].encode(values)) if name in meanings else values

    values = {name: rounded(name, np.asarray(feeds[name], np.float32)) for name in network.inputs}
    for layer in network.layers:
        if layer.kind in WEIGHTED and layer.output in meanings:
            integers, scale, _ = quantized.weights(layer)
            spread = scale if layer.kind == "depthwise" else scale.reshape(-1, *[1] * (integers.ndim - 1))
            layer = replace(layer, weights=(integers * spread).astype(np.float32))  # noqa: PLW2901 - its rounded self
        step = Network({name: values[name].shape for name in layer.inputs}, (layer,), (layer.output,))
        found = step.run({name: values[name] for name in layer.inputs})[layer.output]
        values[layer.output] = rounded(layer.output, found)
    return values
