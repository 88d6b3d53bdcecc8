"""A feed-forward network as data: what the writers turn into model files, and what it computes.

Everything here is channels-last, as TensorFlow Lite has it: an image tensor is (1, height, width,
channels). ``run`` is the plain NumPy meaning of a network; golden samples and calibration ranges
come from it, so they depend on no runtime library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError

Array = NDArray[np.float32]
Shape = tuple[int, ...]
Kind = Literal[
    "conv",
    "depthwise",
    "dense",
    "add",
    "pad",
    "max_pool",
    "mean",
    "reshape",
    "concat",
    "relu",
    "relu6",
    "softmax",
    "sigmoid",
]
Activation = Literal["none", "relu", "relu6"]
WEIGHTED: frozenset[str] = frozenset({"conv", "depthwise", "dense"})
_FUSABLE = WEIGHTED | {"add"}


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation.

    ``weights`` are (out, height, width, in) for ``conv``, (1, height, width, channels) for
    ``depthwise``, (out, in) for ``dense``; ``bias`` is (out,). ``window`` is a pool's. ``shape`` is
    what ``reshape`` gives. ``pads`` are (before, after) for each axis. ``axis`` is that of
    ``concat``; ``mean`` is always over height and width and drops them.
    """

    kind: Kind
    inputs: tuple[str, ...]
    output: str
    weights: Array | None = None
    bias: Array | None = None
    stride: tuple[int, int] = (1, 1)
    padding: Literal["same", "valid"] = "same"
    window: tuple[int, int] = (1, 1)
    activation: Activation = "none"
    shape: Shape = ()
    pads: tuple[tuple[int, int], ...] = ()
    axis: int = 0

    def kernel(self) -> tuple[int, int]:
        """Return the height and width that a convolution or pool looks at."""
        if self.kind == "max_pool":
            return self.window
        assert self.weights is not None
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    def parameters(self) -> tuple[Array, Array]:
        """Return the weights and the bias of a layer that has them.

        Raises:
            ModelError: This kind of layer must have both and has not.
        """
        if self.weights is None or self.bias is None:
            raise ModelError(f"layer {self.output!r} ({self.kind}) has no weights or no bias")
        return self.weights, self.bias


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in an order in which they can run, with the names and shapes at both ends."""

    inputs: dict[str, Shape]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every tensor.

        Raises:
            ModelError: A layer reads a tensor that nothing wrote, or shapes do not fit.
        """
        known = dict(self.inputs)
        for layer in self.layers:
            if layer.output in known:
                raise ModelError(f"two layers write {layer.output!r}")
            missing = [name for name in layer.inputs if name not in known]
            if missing:
                raise ModelError(f"layer {layer.output!r} reads {missing[0]!r}, which nothing wrote")
            known[layer.output] = _shape_of(layer, [known[name] for name in layer.inputs])
        unwritten = [name for name in self.outputs if name not in known]
        if unwritten:
            raise ModelError(f"output {unwritten[0]!r} is written by no layer")
        return known

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute every tensor of the network, inputs included, in float32."""
        values = {name: np.asarray(feeds[name], np.float32) for name in self.inputs}
        for layer in self.layers:
            found = _COMPUTE[layer.kind](layer, [values[name] for name in layer.inputs])
            values[layer.output] = _activate(found, layer.activation)
        return values

    def parameter_count(self) -> int:
        """Return how many weights and biases there are."""
        return sum(a.size for layer in self.layers for a in (layer.weights, layer.bias) if a is not None)

    def renamed(self, names: Mapping[str, str]) -> Network:
        """Return the same network with tensors renamed, as ``{old: new}``."""
        return Network(
            {names.get(name, name): shape for name, shape in self.inputs.items()},
            tuple(
                replace(
                    layer,
                    inputs=tuple(names.get(name, name) for name in layer.inputs),
                    output=names.get(layer.output, layer.output),
                )
                for layer in self.layers
            ),
            tuple(names.get(name, name) for name in self.outputs),
        )


def fuse_activations(network: Network) -> Network:
    """Move each lone ReLU into the layer that feeds it, where nothing else reads between the two."""
    readers = Counter(name for layer in network.layers for name in layer.inputs)
    readers.update(network.outputs)
    kept: dict[str, Layer] = {}
    for layer in network.layers:
        before = kept.get(layer.inputs[0])
        if (
            layer.kind in ("relu", "relu6")
            and before is not None
            and before.kind in _FUSABLE
            and before.activation == "none"
            and readers[before.output] == 1
        ):
            del kept[before.output]
            kind: Activation = "relu" if layer.kind == "relu" else "relu6"
            kept[layer.output] = replace(before, output=layer.output, activation=kind)
        else:
            kept[layer.output] = layer
    return Network(network.inputs, tuple(kept.values()), network.outputs)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after that gives ``ceil(size / stride)`` outputs.

    >>> same_padding(300, 3, 2), same_padding(7, 3, 1)
    ((0, 1), (1, 1))

    Source: TensorFlow, "SAME" padding; the odd pixel goes after.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def spatial_padding(layer: Layer, shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (before, after) padding of height and width for an input of this shape."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel(), layer.stride
    return same_padding(shape[1], kernel_h, stride_h), same_padding(shape[2], kernel_w, stride_w)


# ---------------------------------------------------------------------------------------------
# Shapes


def _shape_of(layer: Layer, shapes: list[Shape]) -> Shape:
    first = shapes[0]
    if layer.kind in ("conv", "depthwise", "max_pool"):
        return _windowed_shape(layer, first)
    if layer.kind == "add" and shapes[0] != shapes[1]:
        raise ModelError(f"layer {layer.output!r} adds {shapes[0]} and {shapes[1]}")
    if layer.kind == "reshape" and int(np.prod(first)) != int(np.prod(layer.shape)):
        raise ModelError(f"layer {layer.output!r} reshapes {first} to {layer.shape}")
    changed: dict[str, Callable[[], Shape]] = {
        "dense": lambda: (first[0], layer.parameters()[1].size),
        "mean": lambda: (first[0], first[3]),
        "reshape": lambda: layer.shape,
        "pad": lambda: tuple(n + sum(pads) for n, pads in zip(first, layer.pads, strict=True)),
        "concat": lambda: (
            *first[: layer.axis],
            sum(shape[layer.axis] for shape in shapes),
            *first[layer.axis + 1 :],
        ),
    }
    return changed[layer.kind]() if layer.kind in changed else first


def _windowed_shape(layer: Layer, shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ModelError(f"layer {layer.output!r} ({layer.kind}) wants four axes, got {shape}")
    channels = shape[3]
    if layer.kind == "conv":
        weights, _ = layer.parameters()
        if weights.shape[3] != channels:
            raise ModelError(f"layer {layer.output!r} wants {weights.shape[3]} channels, got {channels}")
        channels = int(weights.shape[0])
    padded = [size + sum(pad) for size, pad in zip(shape[1:3], spatial_padding(layer, shape), strict=True)]
    sizes = [
        (size - kernel) // stride + 1
        for size, kernel, stride in zip(padded, layer.kernel(), layer.stride, strict=True)
    ]
    return (shape[0], *sizes, channels)


# ---------------------------------------------------------------------------------------------
# Meaning


def _activate(values: Array, activation: Activation) -> Array:
    if activation == "none":
        return values
    return np.clip(values, 0.0, 6.0 if activation == "relu6" else None).astype(np.float32)


def _taps(layer: Layer, values: Array, fill: float) -> list[Array]:
    """Return the input as each position of the window sees it: views (1, out_h, out_w, channels)."""
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel(), layer.stride
    pad_h, pad_w = spatial_padding(layer, values.shape)
    if any((*pad_h, *pad_w)):
        values = np.pad(values, ((0, 0), pad_h, pad_w, (0, 0)), constant_values=fill)
    rows = (values.shape[1] - kernel_h) // stride_h + 1
    columns = (values.shape[2] - kernel_w) // stride_w + 1
    return [
        values[:, y : y + rows * stride_h : stride_h, x : x + columns * stride_w : stride_w]
        for y in range(kernel_h)
        for x in range(kernel_w)
    ]


def _conv(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    taps = _taps(layer, inputs[0], 0.0)
    patches = taps[0] if len(taps) == 1 else np.concatenate(taps, axis=3)
    flat: Array = patches.reshape(-1, patches.shape[3]) @ weights.reshape(weights.shape[0], -1).T + bias
    return flat.reshape(*patches.shape[:3], -1)


def _depthwise(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    kernel = weights.reshape(-1, weights.shape[3])
    total = np.zeros_like(_taps(layer, inputs[0], 0.0)[0]) + bias
    for tap, weight in zip(_taps(layer, inputs[0], 0.0), kernel, strict=True):
        total += tap * weight
    return total.astype(np.float32)


def _dense(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    found: Array = inputs[0] @ weights.T + bias
    return found


def _max_pool(layer: Layer, inputs: list[Array]) -> Array:
    found: Array = np.max(np.stack(_taps(layer, inputs[0], -np.inf)), axis=0)
    return found


def _softmax(_layer: Layer, inputs: list[Array]) -> Array:
    powers = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    found: Array = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _sigmoid(_layer: Layer, inputs: list[Array]) -> Array:
    found: Array = (1.0 / (1.0 + np.exp(-inputs[0].astype(np.float64)))).astype(np.float32)
    return found


_COMPUTE: dict[str, Callable[[Layer, list[Array]], Array]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "dense": _dense,
    "max_pool": _max_pool,
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "add": lambda _layer, inputs: inputs[0] + inputs[1],
    "pad": lambda layer, inputs: np.pad(inputs[0], layer.pads),
    "mean": lambda _layer, inputs: inputs[0].mean(axis=(1, 2), dtype=np.float32),
    "concat": lambda layer, inputs: np.concatenate(inputs, axis=layer.axis),
    "reshape": lambda layer, inputs: inputs[0].reshape(layer.shape),
    "relu": lambda _layer, inputs: np.maximum(inputs[0], np.float32(0)),
    "relu6": lambda _layer, inputs: np.clip(inputs[0], np.float32(0), np.float32(6)),
}
