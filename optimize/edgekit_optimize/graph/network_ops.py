"""The output shape and the output of each kind of layer, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import (
    BINARY,
    POOLS,
    REDUCTIONS,
    RESIZES,
    Activation,
    Array,
    Layer,
    Shape,
    same_padding,
    spatial_padding,
)

# ---------------------------------------------------------------------------------------------
# Shapes


def shape_of(layer: Layer, shapes: list[Shape]) -> Shape:
    """Return the output shape of a layer for these input shapes.

    Raises:
        ModelError: The input shapes do not match the layer.
    """
    if layer.kind == "constant":
        return () if layer.weights is None else tuple(int(size) for size in layer.weights.shape)
    first = shapes[0]
    if layer.kind in {"conv", "depthwise"} | POOLS:
        return _windowed_shape(layer, first)
    if layer.kind in BINARY:
        return _broadcast_shape(layer, shapes)
    if layer.kind == "reshape" and int(np.prod(first)) != int(np.prod(layer.shape)):
        raise ModelError(f"layer {layer.output!r} cannot reshape {first} to {layer.shape}")
    if layer.kind in REDUCTIONS:
        return _reduced_shape(layer, first)
    if layer.kind in RESIZES | {"depth_to_space"}:
        return _scaled_shape(layer, first)
    changed: dict[str, Callable[[], Shape]] = {
        "transposed_conv": lambda: _spread_shape(layer, first),
        "dense": lambda: (*first[:-1], layer.parameters()[1].size),
        "reshape": lambda: layer.shape,
        "transpose": lambda: tuple(first[axis] for axis in layer.axes),
        "slice": lambda: layer.shape,
        "pad": lambda: tuple(n + sum(pads) for n, pads in zip(first, layer.pads, strict=True)),
        "concat": lambda: _concat_shape(layer, shapes),
    }
    return changed[layer.kind]() if layer.kind in changed else first


def _concat_shape(layer: Layer, shapes: list[Shape]) -> Shape:
    first, axis = shapes[0], layer.axis
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis:][1:])


def _broadcast_shape(layer: Layer, shapes: list[Shape]) -> Shape:
    try:
        return tuple(int(size) for size in np.broadcast_shapes(*shapes))
    except ValueError:
        raise ModelError(
            f"layer {layer.output!r} ({layer.kind}): shapes {shapes[0]} and {shapes[1]} do not broadcast"
        ) from None


def _reduced_shape(layer: Layer, shape: Shape) -> Shape:
    axes = layer.reduced(shape)
    if layer.keeps_axes:
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _scaled_shape(layer: Layer, shape: Shape) -> Shape:
    if layer.kind != "depth_to_space":
        return (shape[0], *layer.shape, shape[3])
    block = int(layer.value)
    return (shape[0], shape[1] * block, shape[2] * block, shape[3] // block**2)


def _spread_shape(layer: Layer, shape: Shape) -> Shape:
    weights, _ = layer.parameters()
    if len(shape) != 4 or weights.shape[3] != shape[3]:
        raise ModelError(f"layer {layer.output!r} needs {weights.shape[3]} input channels, got shape {shape}")
    if layer.padding == "same":
        sizes = [size * stride for size, stride in zip(shape[1:3], layer.stride, strict=True)]
    else:
        sides = zip(shape[1:3], layer.stride, layer.kernel(), strict=True)
        sizes = [(size - 1) * stride + kernel for size, stride, kernel in sides]
    return (shape[0], *sizes, int(weights.shape[0]))


def _windowed_shape(layer: Layer, shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ModelError(f"layer {layer.output!r} ({layer.kind}) needs a 4-axis input, got shape {shape}")
    channels = shape[3]
    if layer.kind == "conv":
        weights, _ = layer.parameters()
        if channels % weights.shape[3]:
            raise ModelError(
                f"layer {layer.output!r} needs {weights.shape[3]} input channels, got {channels}"
            )
        channels = int(weights.shape[0])
    if layer.kind == "depthwise":
        channels = int(layer.parameters()[0].shape[3])
    padded = [size + sum(pad) for size, pad in zip(shape[1:3], spatial_padding(layer, shape), strict=True)]
    sizes = [
        (size - kernel) // stride + 1
        for size, kernel, stride in zip(padded, layer.extent(), layer.stride, strict=True)
    ]
    if min(sizes) < 1:
        raise ModelError(
            f"layer {layer.output!r} ({layer.kind}): the window is larger than its input {shape}"
        )
    return (shape[0], *sizes, channels)


# ---------------------------------------------------------------------------------------------
# Values


def compute(layer: Layer, inputs: list[Array]) -> Array:
    """Return the output of a layer for these inputs, float32."""
    output = _COMPUTE[layer.kind](layer, inputs)
    return _activate(output, layer.activation)


def _activate(values: Array, activation: Activation) -> Array:
    if activation == "none":
        return values
    return np.clip(values, 0.0, 6.0 if activation == "relu6" else None).astype(np.float32)


def _taps(layer: Layer, values: Array, fill: float) -> list[Array]:
    """Return one view of the input for each window position, each (1, out_h, out_w, channels)."""
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel(), layer.stride
    (extent_h, extent_w), (down, across) = layer.extent(), layer.dilation
    pad_h, pad_w = spatial_padding(layer, values.shape)
    if any((*pad_h, *pad_w)):
        values = np.pad(values, ((0, 0), pad_h, pad_w, (0, 0)), constant_values=fill)
    rows = (values.shape[1] - extent_h) // stride_h + 1
    columns = (values.shape[2] - extent_w) // stride_w + 1
    return [
        values[:, y : y + rows * stride_h : stride_h, x : x + columns * stride_w : stride_w]
        for y in range(0, kernel_h * down, down)
        for x in range(0, kernel_w * across, across)
    ]


def _conv(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    taps = _taps(layer, inputs[0], 0.0)
    width = int(weights.shape[3])
    groups = inputs[0].shape[3] // width
    patches = taps[0] if len(taps) == 1 and groups == 1 else np.stack(taps, axis=3)
    if groups == 1:
        flat: Array = patches.reshape(-1, len(taps) * width) @ weights.reshape(weights.shape[0], -1).T + bias
        return flat.reshape(*taps[0].shape[:3], -1)
    parts = [
        patches[..., group * width : (group + 1) * width].reshape(-1, len(taps) * width)
        @ kernel.reshape(kernel.shape[0], -1).T
        for group, kernel in enumerate(np.split(weights, groups))
    ]
    joined: Array = np.concatenate(parts, axis=1) + bias
    return joined.reshape(*taps[0].shape[:3], -1)


def _depthwise(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    kernel = weights.reshape(-1, weights.shape[3])
    taps = _taps(layer, inputs[0], 0.0)
    times = kernel.shape[1] // inputs[0].shape[3]
    total = np.zeros((*taps[0].shape[:3], kernel.shape[1]), np.float32) + bias
    for tap, weight in zip(taps, kernel, strict=True):
        total += (tap if times == 1 else np.repeat(tap, times, axis=3)) * weight
    return total.astype(np.float32)


def _transposed_conv(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    (kernel_h, kernel_w), (stride_h, stride_w) = layer.kernel(), layer.stride
    _, height, width, _ = inputs[0].shape
    full = ((height - 1) * stride_h + kernel_h, (width - 1) * stride_w + kernel_w)
    total = np.zeros((1, *full, weights.shape[0]), np.float32)
    for y in range(kernel_h):
        for x in range(kernel_w):
            rows = slice(y, y + (height - 1) * stride_h + 1, stride_h)
            columns = slice(x, x + (width - 1) * stride_w + 1, stride_w)
            total[:, rows, columns] += inputs[0] @ weights[:, y, x].T
    total += bias
    _, out_h, out_w, _ = _spread_shape(layer, inputs[0].shape)
    (top, _), (left, _) = (
        same_padding(size, kernel, stride) if layer.padding == "same" else (0, 0)
        for size, kernel, stride in zip((out_h, out_w), layer.kernel(), layer.stride, strict=True)
    )
    # If the stride is longer than the kernel, "same" output extends past the last computed value.
    room = [(0, 0), (0, max(top + out_h - full[0], 0)), (0, max(left + out_w - full[1], 0)), (0, 0)]
    padded = np.pad(total, room)
    if any(after for _, after in room):
        padded[:, full[0] :] = bias
        padded[:, :, full[1] :] = bias
    return padded[:, top : top + out_h, left : left + out_w]


def _dense(layer: Layer, inputs: list[Array]) -> Array:
    weights, bias = layer.parameters()
    output: Array = inputs[0] @ weights.T + bias
    return output


def _max_pool(layer: Layer, inputs: list[Array]) -> Array:
    output: Array = np.max(np.stack(_taps(layer, inputs[0], -np.inf)), axis=0)
    return output


def _average_pool(layer: Layer, inputs: list[Array]) -> Array:
    total = np.sum(_taps(layer, inputs[0], 0.0), axis=0)
    counts = np.sum(_taps(layer, np.ones_like(inputs[0][..., :1]), 0.0), axis=0)
    output: Array = (total / counts).astype(np.float32)
    return output


def _softmax(_layer: Layer, inputs: list[Array]) -> Array:
    powers = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    output: Array = powers / powers.sum(axis=-1, keepdims=True)
    return output


def _sigmoid(_layer: Layer, inputs: list[Array]) -> Array:
    with np.errstate(over="ignore"):
        output: Array = (1.0 / (1.0 + np.exp(-inputs[0].astype(np.float64)))).astype(np.float32)
    return output


def _reduce(how: Callable[..., Any]) -> Callable[[Layer, list[Array]], Array]:
    def run(layer: Layer, inputs: list[Array]) -> Array:
        values = inputs[0]
        axes = layer.reduced(values.shape)
        return np.asarray(how(values, axis=axes, keepdims=layer.keeps_axes), np.float32)

    return run


def _slice(layer: Layer, inputs: list[Array]) -> Array:
    steps = layer.steps or (1,) * len(layer.starts)
    index = tuple(
        slice(start, start + (size - 1) * step + 1, step)
        for start, size, step in zip(layer.starts, layer.shape, steps, strict=True)
    )
    return inputs[0][index]


def _depth_to_space(layer: Layer, inputs: list[Array]) -> Array:
    block = int(layer.value)
    _, height, width, channels = inputs[0].shape
    split: Array = inputs[0].reshape(height, width, block, block, channels // block**2)
    return np.asarray(split.transpose(0, 2, 1, 3, 4).reshape(1, height * block, width * block, -1))


def _source_coordinates(layer: Layer, size: int, new_size: int) -> Array:
    """Return the input coordinate of each output pixel of a resize, in pixels."""
    steps = np.arange(new_size, dtype=np.float32)
    if layer.grid == "aligned":
        return np.asarray(steps * np.float32((size - 1) / max(new_size - 1, 1)), np.float32)
    scale = np.float32(size / new_size)
    return np.asarray(
        (steps + 0.5) * scale - 0.5 if layer.grid == "half_pixel" else steps * scale, np.float32
    )


def _resize_nearest(layer: Layer, inputs: list[Array]) -> Array:
    values = inputs[0]
    for axis, new_size in zip((1, 2), layer.shape, strict=True):
        size = values.shape[axis]
        coordinates = _source_coordinates(layer, size, new_size)
        # TensorFlow Lite rounds half-pixel coordinates to the nearest pixel.
        nearest = np.floor(coordinates + 0.5) if layer.grid != "corner" else np.floor(coordinates)
        values = np.take(values, np.clip(nearest, 0, size - 1).astype(np.int64), axis=axis)
    return values


def _resize_bilinear(layer: Layer, inputs: list[Array]) -> Array:
    values = inputs[0]
    for axis, new_size in zip((1, 2), layer.shape, strict=True):
        size = values.shape[axis]
        coordinates = np.clip(_source_coordinates(layer, size, new_size), 0, size - 1)
        low = np.floor(coordinates).astype(np.int64)
        share = (coordinates - low).reshape([-1 if other == axis else 1 for other in range(4)])
        below, above = np.take(values, low, axis), np.take(values, np.minimum(low + 1, size - 1), axis)
        values = (below * (1 - share) + above * share).astype(np.float32)
    return values


def _hard_swish(_layer: Layer, inputs: list[Array]) -> Array:
    return np.asarray(inputs[0] * np.clip(inputs[0] + 3, 0, 6) / np.float32(6), np.float32)


def _leaky(layer: Layer, inputs: list[Array]) -> Array:
    return np.where(inputs[0] < 0, inputs[0] * np.float32(layer.value), inputs[0])


def _elu(_layer: Layer, inputs: list[Array]) -> Array:
    return np.where(inputs[0] < 0, np.expm1(np.minimum(inputs[0], 0)), inputs[0])


def _constant(layer: Layer, _inputs: list[Array]) -> Array:
    assert layer.weights is not None
    return layer.weights


_COMPUTE: dict[str, Callable[[Layer, list[Array]], Array]] = {
    "conv": _conv,
    "depthwise": _depthwise,
    "transposed_conv": _transposed_conv,
    "dense": _dense,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "add": lambda _layer, inputs: inputs[0] + inputs[1],
    "sub": lambda _layer, inputs: inputs[0] - inputs[1],
    "mul": lambda _layer, inputs: inputs[0] * inputs[1],
    "div": lambda _layer, inputs: inputs[0] / inputs[1],
    "minimum": lambda _layer, inputs: np.minimum(inputs[0], inputs[1]),
    "maximum": lambda _layer, inputs: np.maximum(inputs[0], inputs[1]),
    "prelu": lambda _layer, inputs: np.where(inputs[0] < 0, inputs[0] * inputs[1], inputs[0]),
    "pad": lambda layer, inputs: np.pad(inputs[0], layer.pads, constant_values=layer.value),
    "mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "reduce_sum": _reduce(np.sum),
    "concat": lambda layer, inputs: np.concatenate(inputs, axis=layer.axis),
    "reshape": lambda layer, inputs: inputs[0].reshape(layer.shape),
    "transpose": lambda layer, inputs: inputs[0].transpose(layer.axes),
    "slice": _slice,
    "depth_to_space": _depth_to_space,
    "resize_nearest": _resize_nearest,
    "resize_bilinear": _resize_bilinear,
    "relu": lambda _layer, inputs: np.maximum(inputs[0], np.float32(0)),
    "relu6": lambda _layer, inputs: np.clip(inputs[0], np.float32(0), np.float32(6)),
    "leaky_relu": _leaky,
    "elu": _elu,
    "hard_swish": _hard_swish,
    "tanh": lambda _layer, inputs: np.tanh(inputs[0]),
    "exp": lambda _layer, inputs: np.exp(inputs[0]),
    "sqrt": lambda _layer, inputs: np.sqrt(inputs[0]),
    "abs": lambda _layer, inputs: np.abs(inputs[0]),
    "neg": lambda _layer, inputs: -inputs[0],
    "constant": _constant,
    "requantize": lambda _layer, inputs: inputs[0],
    "quantize": lambda _layer, inputs: inputs[0],
    "dequantize": lambda _layer, inputs: inputs[0],
}
