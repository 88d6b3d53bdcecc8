"""One operation of a network, as data, and padding arithmetic.

All tensors are channels-last, as in TensorFlow Lite: an image is (1, height, width, channels).
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
    ``out / in`` adjacent output channels), (out, in) for ``dense``, and the values of a ``constant``;
    ``bias`` is (out,). ``window`` is the pool size; an average ignores padded pixels. ``dilation`` is
    that of a convolution. ``shape`` is the output shape of ``reshape``, the (height, width) of a resize,
    and the output lengths of ``slice``, which starts at ``starts`` and takes every ``steps``-th value.
    ``pads`` are (before, after) for each axis, filled with ``value``; ``value`` is also the slope of
    ``leaky_relu`` and the block size of ``depth_to_space``. ``axis`` is for ``concat``; ``axes`` are
    the axes of a reduction (empty: height and width; removed unless ``keeps_axes``) and the permutation
    of ``transpose``. ``grid`` is the coordinate mapping of a resize. ``also`` names the tensors of the
    source model that were merged into this layer.
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
        """Return the kernel height and width of a convolution or pool, not counting dilation."""
        if self.kind in POOLS:
            return self.window
        assert self.weights is not None
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    def extent(self) -> tuple[int, int]:
        """Return the height and width that a convolution or pool covers, dilation included."""
        (height, width), (down, across) = self.kernel(), self.dilation
        return (height - 1) * down + 1, (width - 1) * across + 1

    def parameters(self) -> tuple[Array, Array]:
        """Return the weights and the bias of a layer that has them.

        Raises:
            ModelError: The weights or the bias are missing.
        """
        if self.weights is None or self.bias is None:
            raise ModelError(f"layer {self.output!r} ({self.kind}) has no weights or no bias")
        return self.weights, self.bias

    def names(self) -> frozenset[str]:
        """Return the layer's output name and the names of all tensors merged into it."""
        return frozenset((self.output, *self.also))

    def reduced(self, shape: Shape) -> tuple[int, ...]:
        """Return the axes this reduction removes or shrinks, sorted and non-negative, for an input shape."""
        return tuple(sorted(axis % len(shape) for axis in self.axes or (1, 2)))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after that gives ``ceil(size / stride)`` outputs.

    >>> same_padding(300, 3, 2), same_padding(7, 3, 1)
    ((0, 1), (1, 1))

    Source: TensorFlow "SAME" padding; an odd pixel is added after.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def spatial_padding(layer: Layer, shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (before, after) padding of height and width for an input of this shape."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.extent(), layer.stride
    return same_padding(shape[1], kernel_h, stride_h), same_padding(shape[2], kernel_w, stride_w)
