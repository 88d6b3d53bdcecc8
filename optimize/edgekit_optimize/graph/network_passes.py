"""Passes that remove the redundant layers that importing a model file leaves behind.

Each pass keeps the network's outputs, and records the names of removed tensors in ``Layer.also``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from edgekit_optimize.graph.layer import WEIGHTED, Array, Layer, Shape
from edgekit_optimize.graph.network import Network, fuse_activations

_ROUNDS = 32  # one pass may enable another; real networks need two or three rounds


def simplified(network: Network) -> Network:
    """Return an equivalent network with layers merged, folded into others, or removed."""
    for _ in range(_ROUNDS):
        before = len(network.layers)
        for once in (_without_unused, _without_idle, _joined_moves, _scales_absorbed, _order_absorbed):
            network = once(network)
        if len(network.layers) == before:
            break
    return fuse_activations(network)


class _Edit:
    """A network being rewritten: layers by output, in order, and the number of readers of each tensor."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers = {layer.output: layer for layer in network.layers}
        self.readers = Counter(name for layer in network.layers for name in layer.inputs)
        self.readers.update(network.outputs)
        self.shapes = network.shapes()

    def before(self, layer: Layer, kinds: frozenset[str] | set[str]) -> Layer | None:
        """Return the layer before this one, if it is of these kinds and has no other reader, else None."""
        feeder = self.layers.get(layer.inputs[0]) if layer.inputs else None
        alone = feeder is not None and feeder.kind in kinds and self.readers[feeder.output] == 1
        return feeder if alone and feeder is not None and feeder.activation == "none" else None

    def join(self, first: Layer, second: Layer, joined: Layer) -> None:
        """Replace two consecutive layers with ``joined``."""
        del self.layers[first.output]
        also = (*first.also, first.output, *second.also)
        self.layers[second.output] = replace(joined, output=second.output, also=also)
        # Assigning to an existing key keeps its position in the dictionary, which is after all inputs.

    def result(self) -> Network:
        return Network(self.network.inputs, tuple(self.layers.values()), self.network.outputs)


def _without_unused(network: Network) -> Network:
    needed = set(network.outputs)
    used_layers: list[Layer] = []
    for layer in reversed(network.layers):
        if layer.output in needed:
            used_layers.append(layer)
            needed.update(layer.inputs)
    return Network(network.inputs, tuple(reversed(used_layers)), network.outputs)


def _without_idle(network: Network) -> Network:
    """Remove reshapes to the same shape and transpositions that change nothing."""
    shapes, replacement = network.shapes(), dict[str, str]()
    removed_names: dict[str, tuple[str, ...]] = {}
    layers_left: list[Layer] = []
    for layer in network.layers:
        inputs = tuple(replacement.get(name, name) for name in layer.inputs)
        idle = (layer.kind == "reshape" and shapes[layer.inputs[0]] == layer.shape) or (
            layer.kind == "transpose" and layer.axes == tuple(range(len(layer.axes)))
        )
        if idle and layer.output not in network.outputs:
            replacement[layer.output] = inputs[0]
            removed_names[inputs[0]] = (*removed_names.get(inputs[0], ()), layer.output, *layer.also)
        else:
            layers_left.append(replace(layer, inputs=inputs))
    layers = tuple(
        replace(layer, also=(*layer.also, *removed_names.get(layer.output, ()))) for layer in layers_left
    )
    return _ends_named(Network(network.inputs, layers, network.outputs))


def _ends_named(network: Network) -> Network:
    """Remove a no-op reshape before an output: the layer before it takes the output's name."""
    edit = _Edit(network)
    for layer in network.layers:
        first = edit.layers.get(layer.inputs[0]) if layer.kind == "reshape" else None
        if first is not None and layer.shape == edit.shapes[first.output] and edit.readers[first.output] == 1:
            edit.join(first, edit.layers[layer.output], first)
    return edit.result()


def _joined_moves(network: Network) -> Network:
    """Merge consecutive reshapes, consecutive transpositions, and a mean followed by a reshape."""
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
    """Fold constant multiplications and additions into the weights and bias of the layer before them."""
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
    """Return a constant as one value per channel (last axis), or None if it varies along other axes."""
    values = constant.weights
    assert values is not None
    channels = shape[-1]
    if values.ndim > len(shape) or values.size not in (1, channels):
        return None
    if values.size == channels and values.size > 1 and values.shape[-1] != channels:
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float32)


def _order_absorbed(network: Network) -> Network:
    """Remove the transposition between an image and a dense layer by permuting the dense weights."""
    edit = _Edit(network)
    for layer in network.layers:
        current = edit.layers[layer.output]
        if current.kind != "dense":
            continue
        flat = edit.before(current, {"reshape"})
        transposed = None if flat is None else edit.before(flat, {"transpose"})
        if flat is None or transposed is None or len(flat.shape) != 2:
            continue
        source = edit.shapes[transposed.inputs[0]]
        weights, _ = current.parameters()
        if source[0] != 1 or flat.shape[0] != 1 or transposed.axes[0] != 0:
            continue
        columns = np.arange(weights.shape[1]).reshape(source).transpose(transposed.axes).ravel()
        reordered = np.empty_like(weights)
        reordered[:, columns] = weights
        edit.join(transposed, flat, replace(flat, inputs=transposed.inputs))
        edit.layers[current.output] = replace(current, weights=reordered)
    return edit.result()
