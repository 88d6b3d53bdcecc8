"""The same network with fewer layers: what reading a file leaves behind, folded away.

Each pass keeps what the network computes, and the names of the tensors that it drops (``Layer.also``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from edgekit_optimize.graph.layer import WEIGHTED, Array, Layer, Shape
from edgekit_optimize.graph.network import Network, fuse_activations

_ROUNDS = 32  # a pass may make room for another; real networks need two or three rounds


def simplified(network: Network) -> Network:
    """Return a network that computes the same with layers merged, absorbed and dropped."""
    for _ in range(_ROUNDS):
        before = len(network.layers)
        for once in (_without_unused, _without_idle, _joined_moves, _scales_absorbed, _order_absorbed):
            network = once(network)
        if len(network.layers) == before:
            break
    return fuse_activations(network)


class _Edit:
    """A network being rewritten: layers by output, in order, and who reads what."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers = {layer.output: layer for layer in network.layers}
        self.readers = Counter(name for layer in network.layers for name in layer.inputs)
        self.readers.update(network.outputs)
        self.shapes = network.shapes()

    def before(self, layer: Layer, kinds: frozenset[str] | set[str]) -> Layer | None:
        """Return the layer that feeds this one, where it is of these kinds and feeds nothing else."""
        found = self.layers.get(layer.inputs[0]) if layer.inputs else None
        alone = found is not None and found.kind in kinds and self.readers[found.output] == 1
        return found if alone and found is not None and found.activation == "none" else None

    def join(self, first: Layer, second: Layer, joined: Layer) -> None:
        """Put one layer in the place of two, the second of which reads the first."""
        del self.layers[first.output]
        also = (*first.also, first.output, *second.also)
        self.layers[second.output] = replace(joined, output=second.output, also=also)
        # Dictionaries keep the place of a key that is there already, and that is after all inputs.

    def result(self) -> Network:
        return Network(self.network.inputs, tuple(self.layers.values()), self.network.outputs)


def _without_unused(network: Network) -> Network:
    wanted = set(network.outputs)
    kept: list[Layer] = []
    for layer in reversed(network.layers):
        if layer.output in wanted:
            kept.append(layer)
            wanted.update(layer.inputs)
    return Network(network.inputs, tuple(reversed(kept)), network.outputs)


def _without_idle(network: Network) -> Network:
    """Drop reshapes to the same shape and transpositions to the same order."""
    shapes, other = network.shapes(), dict[str, str]()
    swallowed: dict[str, tuple[str, ...]] = {}
    kept: list[Layer] = []
    for layer in network.layers:
        inputs = tuple(other.get(name, name) for name in layer.inputs)
        idle = (layer.kind == "reshape" and shapes[layer.inputs[0]] == layer.shape) or (
            layer.kind == "transpose" and layer.axes == tuple(range(len(layer.axes)))
        )
        if idle and layer.output not in network.outputs:
            other[layer.output] = inputs[0]
            swallowed[inputs[0]] = (*swallowed.get(inputs[0], ()), layer.output, *layer.also)
        else:
            kept.append(replace(layer, inputs=inputs))
    layers = tuple(replace(layer, also=(*layer.also, *swallowed.get(layer.output, ()))) for layer in kept)
    return _ends_named(Network(network.inputs, layers, network.outputs))


def _ends_named(network: Network) -> Network:
    """Give the name of an output to the layer that makes it, where only a reshape to itself is between."""
    edit = _Edit(network)
    for layer in network.layers:
        first = edit.layers.get(layer.inputs[0]) if layer.kind == "reshape" else None
        if first is not None and layer.shape == edit.shapes[first.output] and edit.readers[first.output] == 1:
            edit.join(first, edit.layers[layer.output], first)
    return edit.result()


def _joined_moves(network: Network) -> Network:
    """Join neighbours that only move values: reshapes, transpositions, a mean and its reshape."""
    edit = _Edit(network)
    for layer in network.layers:
        current = edit.layers[layer.output]
        first = edit.before(current, {"reshape", "transpose", "mean"})
        if first is None:
            continue
        if current.kind == "reshape" and first.kind == "reshape":
            edit.join(first, current, replace(current, inputs=first.inputs))
        elif current.kind == "transpose" and first.kind == "transpose":
            axes = tuple(first.axes[axis] for axis in current.axes)
            edit.join(first, current, replace(current, inputs=first.inputs, axes=axes))
        elif current.kind == "reshape" and first.kind == "mean" and first.keeps_axes:
            dropped = replace(first, keeps_axes=False)
            source = edit.shapes[first.inputs[0]]
            axes = first.reduced(source)
            if current.shape == tuple(size for axis, size in enumerate(source) if axis not in axes):
                edit.join(first, current, dropped)
    return edit.result()


def _scales_absorbed(network: Network) -> Network:
    """Put constant factors and sums into the weights and bias of the layer before them."""
    edit = _Edit(network)
    for layer in network.layers:
        current = edit.layers[layer.output]
        if current.kind not in ("mul", "add"):
            continue
        constant = edit.layers.get(current.inputs[1])
        first = edit.before(current, WEIGHTED)
        if first is None or constant is None or constant.kind != "constant":
            continue
        values = _by_channel(constant, edit.shapes[first.output])
        if values is None:
            continue
        weights, bias = (array.astype(np.float64) for array in first.parameters())
        if current.kind == "mul":
            weights = weights * (values if first.kind == "depthwise" else _leading(values, weights.ndim))
            bias = bias * values
        else:
            bias = bias + values
        joined = replace(
            first,
            weights=weights.astype(np.float32),
            bias=bias.astype(np.float32),
            activation=current.activation,
        )
        edit.join(first, current, joined)
    return edit.result()


def _leading(values: Array, axes: int) -> Array:
    return values.reshape(-1, *[1] * (axes - 1))


def _by_channel(constant: Layer, shape: Shape) -> Array | None:
    """Return a constant as one value for each of the last axis's places, if that is what it is."""
    values = constant.weights
    assert values is not None
    channels = shape[-1]
    if values.ndim > len(shape) or values.size not in (1, channels):
        return None
    if values.size == channels and values.size > 1 and values.shape[-1] != channels:
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float32)


def _order_absorbed(network: Network) -> Network:
    """Let a dense layer read an image in the order that it lies in, by reordering its weights."""
    edit = _Edit(network)
    for layer in network.layers:
        current = edit.layers[layer.output]
        if current.kind != "dense":
            continue
        flat = edit.before(current, {"reshape"})
        turned = None if flat is None else edit.before(flat, {"transpose"})
        if flat is None or turned is None or len(flat.shape) != 2:
            continue
        source = edit.shapes[turned.inputs[0]]
        weights, _ = current.parameters()
        if source[0] != 1 or flat.shape[0] != 1 or turned.axes[0] != 0:
            continue
        places = np.arange(weights.shape[1]).reshape(source).transpose(turned.axes).ravel()
        reordered = np.empty_like(weights)
        reordered[:, places] = weights
        edit.join(turned, flat, replace(flat, inputs=turned.inputs))
        edit.layers[current.output] = replace(current, weights=reordered)
    return edit.result()
