"""One operation of a network, as data, and the arithmetic of padding.

Everything here is channels-last, as TensorFlow Lite has it: an image tensor is (1, height, width,
channels).
"""

from __future__ import annotations

from dataclasses import dataclass
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
    "transposed_conv",
    "add",
    "sub",
    "mul",
    "div",
    "minimum",
    "maximum",
    "pad",
    "max_pool",
    "average_pool",
    "mean",
    "reduce_max",
    "reduce_sum",
    "reshape",
    "transpose",
    "concat",
    "slice",
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "hard_swish",
    "tanh",
    "softmax",
    "sigmoid",
    "exp",
    "sqrt",
    "abs",
    "neg",
    "resize_nearest",
    "resize_bilinear",
    "depth_to_space",
    "constant",
    "requantize",
    "quantize",
    "dequantize",
]
Activation = Literal["none", "relu", "relu6"]
WEIGHTED: frozenset[str] = frozenset({"conv", "depthwise", "dense", "transposed_conv"})
BINARY: frozenset[str] = frozenset({"add", "sub", "mul", "div", "minimum", "maximum", "prelu"})
POOLS: frozenset[str] = frozenset({"max_pool", "average_pool"})
REDUCTIONS: frozenset[str] = frozenset({"mean", "reduce_max", "reduce_sum"})
RESIZES: frozenset[str] = frozenset({"resize_nearest", "resize_bilinear"})


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation.

    ``weights`` are (out, height, width, in / groups) for ``conv``, (out, height, width, in) for
    ``transposed_conv``, (1, height, width, out) for ``depthwise`` (each input channel gives
    ``out / in`` neighbouring ones), (out, in) for ``dense``, and the values of a ``constant``;
    ``bias`` is (out,). ``window`` is a pool's; an average counts only what lies inside the image.
    ``dilation`` is how far apart the places of a convolution's window are. ``shape`` is what
    ``reshape`` gives, the (height, width) that a resize gives, the lengths of what ``slice`` takes:
    from ``starts`` on, every ``steps``-th value. ``pads`` are (before, after) for each axis, filled
    with ``value``; ``value`` is also the slope of ``leaky_relu``, and the block of
    ``depth_to_space``. ``axis`` is that of ``concat``; ``axes`` are what a reduction is over
    (dropped unless ``keeps_axes``; none stands for height and width) and the order of ``transpose``.
    ``grid`` says how a resize places its pixels.
    ``also`` names the tensors of the source model that this layer swallowed.
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
    dilation: tuple[int, int] = (1, 1)
    axes: tuple[int, ...] = ()
    keeps_axes: bool = False
    starts: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    value: float = 0.0
    grid: Literal["corner", "half_pixel", "aligned"] = "corner"
    also: tuple[str, ...] = ()

    def kernel(self) -> tuple[int, int]:
        """Return the height and width that a convolution or pool looks at, without its holes."""
        if self.kind in POOLS:
            return self.window
        assert self.weights is not None
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    def extent(self) -> tuple[int, int]:
        """Return the height and width that a convolution or pool reaches over, holes included."""
        (height, width), (down, across) = self.kernel(), self.dilation
        return (height - 1) * down + 1, (width - 1) * across + 1

    def parameters(self) -> tuple[Array, Array]:
        """Return the weights and the bias of a layer that has them.

        Raises:
            ModelError: This kind of layer must have both and has not.
        """
        if self.weights is None or self.bias is None:
            raise ModelError(f"layer {self.output!r} ({self.kind}) has no weights or no bias")
        return self.weights, self.bias

    def names(self) -> frozenset[str]:
        """Return every name that this layer goes by: its output's, and those it swallowed."""
        return frozenset((self.output, *self.also))

    def reduced(self, shape: Shape) -> tuple[int, ...]:
        """Return the axes that a reduction of a tensor of this shape is over, all from 0 up."""
        return tuple(sorted(axis % len(shape) for axis in self.axes or (1, 2)))


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
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.extent(), layer.stride
    return same_padding(shape[1], kernel_h, stride_h), same_padding(shape[2], kernel_w, stride_w)
