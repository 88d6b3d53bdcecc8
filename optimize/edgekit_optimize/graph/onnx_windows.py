"""Import of ONNX convolutions, pools, pads and resizes as layers.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_optimize.graph.layer import Kind, same_padding
from edgekit_optimize.graph.onnx_reading import IMAGE, ROW, Axes, Reading, unsupported

Pads = tuple[tuple[int, int], tuple[int, int]]
_LOWEST = float(np.finfo(np.float32).min)
_NEVER_NEGATIVE = frozenset({"relu", "relu6", "sigmoid", "softmax", "exp", "abs"})


def attribute(node: Any, name: str, default: Any) -> Any:
    """Return a node's attribute, or the default."""
    from onnx import helper

    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def required_constant(reading: Reading, node: Any, index: int, why: str) -> NDArray[Any]:
    """Return the values of a node's constant input.

    Raises:
        ModelError: The input is missing or computed at run time.
    """
    values = reading.constant(node.input[index]) if len(node.input) > index else None
    if values is None:
        raise unsupported(node, why, "export the model with fixed sizes and constant weights")
    return values


def _image(reading: Reading, node: Any) -> tuple[str, Axes]:
    """Return the channels-last form of a node's first input; a 1-D signal becomes an image of height 1."""
    axes = {4: IMAGE, 3: ROW}.get(len(reading.shape(node.input[0])))
    if axes is None:
        raise unsupported(
            node, f"{len(reading.shape(node.input[0])) - 2} spatial dimensions; only 1 and 2 are supported"
        )
    return reading.turned(node.input[0], axes), axes


def _pair(node: Any, name: str, axes: Axes, default: int = 1) -> tuple[int, int]:
    values = [int(value) for value in attribute(node, name, [default] * (len(axes) - 2))]
    return (default if len(values) < 2 else values[0], values[-1])


def _explicit_pads(node: Any) -> Pads:
    """Return a node's explicit padding (before, after) of height and width; 1-D nodes have width only."""
    values = [int(value) for value in attribute(node, "pads", [0] * 4)]
    half = len(values) // 2
    pairs = list(zip(values[:half], values[half:], strict=True))
    return (pairs[0] if half > 1 else (0, 0)), pairs[-1]


class _Window:
    """The window of a convolution or pool: kernel, stride, dilation and padding."""

    def __init__(self, reading: Reading, node: Any, source: str, axes: Axes, kernel: tuple[int, int]) -> None:
        self.kernel = kernel
        self.stride, self.dilation = _pair(node, "strides", axes), _pair(node, "dilations", axes)
        self.sizes = reading.shapes[source][1:3]
        self.extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True))
        self.requested_pads = self._requested_pads(node)
        self.ceil = bool(attribute(node, "ceil_mode", 0))
        self.counts = [self._count(axis) for axis in (0, 1)]
        self.pads = tuple(self._used(axis) for axis in (0, 1))

    def _requested_pads(self, node: Any) -> Pads:
        automatic = attribute(node, "auto_pad", b"NOTSET")
        if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
            pads_per_axis = [
                same_padding(*axis) for axis in zip(self.sizes, self.extent, self.stride, strict=True)
            ]
            ordered = [pads if automatic == b"SAME_UPPER" else pads[::-1] for pads in pads_per_axis]
            return ordered[0], ordered[1]
        return _explicit_pads(node)

    def _count(self, axis: int) -> int:
        (before, after), stride = self.requested_pads[axis], self.stride[axis]
        room = self.sizes[axis] + before + after - self.extent[axis]
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        # ONNX drops a window that would start in the padding after the image.
        return count - 1 if self.ceil and (count - 1) * stride >= self.sizes[axis] + before else count

    def _used(self, axis: int) -> tuple[int, int]:
        """Return the padding actually used: with strides, the last padded pixels may not be reached."""
        before = self.requested_pads[axis][0]
        reach = (self.counts[axis] - 1) * self.stride[axis] + self.extent[axis]
        return before, max(reach - self.sizes[axis] - before, 0)

    def is_same(self) -> bool:
        """Return whether the padding equals TensorFlow's "same" padding."""
        return all(
            same_padding(self.sizes[axis], self.extent[axis], self.stride[axis]) == self.pads[axis]
            and -(-self.sizes[axis] // self.stride[axis]) == self.counts[axis]
            for axis in (0, 1)
        )

    def is_padded(self) -> bool:
        return any(any(pads) for pads in self.pads)


def _padded(
    reading: Reading, source: str, window: _Window, output: str, fill: float = 0.0
) -> tuple[str, dict[str, Any]]:
    """Return the tensor to convolve or pool, padded if needed, and the layer's stride and padding."""
    fields: dict[str, Any] = {"stride": window.stride, "padding": "valid"}
    if not window.is_padded():
        return source, fields
    if window.is_same():
        return source, {**fields, "padding": "same"}
    pads = ((0, 0), *window.pads, (0, 0))
    return reading.add("pad", [source], f"{output}/padded", pads=pads, value=fill), fields


def _conv(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    values = required_constant(reading, node, 1, "its weights are not constant").astype(np.float32)
    weights = values if values.ndim == 4 else values[:, :, np.newaxis]
    output, channels = node.output[0], reading.shapes[source][3]
    groups = int(attribute(node, "group", 1))
    if weights.shape[1] * groups != channels:
        raise unsupported(
            node, f"its weights have {weights.shape[1] * groups} input channels, its input has {channels}"
        )
    bias = np.zeros(len(weights), np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = required_constant(reading, node, 2, "its bias is not constant").astype(np.float32)
    window = _Window(reading, node, source, axes, (weights.shape[2], weights.shape[3]))
    source, fields = _padded(reading, source, window, output)
    is_depthwise = groups == channels and groups > 1
    kind: Kind = "depthwise" if is_depthwise else "conv"
    order = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
    kernel = np.ascontiguousarray(weights.transpose(order))
    reading.add(kind, [source], output, weights=kernel, bias=bias, dilation=window.dilation, **fields)
    reading.write(output, output, axes)


def _conv_transpose(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    values = required_constant(reading, node, 1, "its weights are not constant").astype(np.float32)
    weights = values if values.ndim == 4 else values[:, :, np.newaxis]
    if int(attribute(node, "group", 1)) != 1 or _pair(node, "dilations", axes) != (1, 1):
        raise unsupported(node, "a grouped or dilated transposed convolution is not supported")
    output, bias = node.output[0], np.zeros(weights.shape[1], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = required_constant(reading, node, 2, "its bias is not constant").astype(np.float32)
    before, after = reading.shapes[source][1:3], _spread_sizes(reading, node, source, axes, weights.shape[2:])
    stride, kernel = _pair(node, "strides", axes), (weights.shape[2], weights.shape[3])
    pads = _spread_pads(node, before, after, stride, kernel)
    is_same = all(
        after[axis] == before[axis] * stride[axis]
        and pads[axis] == same_padding(after[axis], kernel[axis], stride[axis])[0]
        for axis in (0, 1)
    )
    is_full = after == tuple((n - 1) * s + k for n, s, k in zip(before, stride, kernel, strict=True))
    name = output if is_same or is_full else f"{output}/whole"
    reading.add(
        "transposed_conv",
        [source],
        name,
        weights=np.ascontiguousarray(weights.transpose(1, 2, 3, 0)),
        bias=bias,
        stride=stride,
        padding="same" if is_same else "valid",
        also=() if name == output else (output,),
    )
    if name != output:
        full_shape = reading.shapes[name]
        if any(pads[axis] + after[axis] > full_shape[axis + 1] for axis in (0, 1)):
            raise unsupported(node, "its output padding is larger than its kernel covers")
        starts = (0, *pads, 0)
        reading.add("slice", [name], output, starts=starts, shape=(full_shape[0], *after, full_shape[3]))
    reading.write(output, output, axes)


def _spread_sizes(
    reading: Reading, node: Any, source: str, axes: Axes, kernel: tuple[int, ...]
) -> tuple[int, int]:
    """Return the output height and width of a transposed convolution."""
    before, stride = reading.shapes[source][1:3], _pair(node, "strides", axes)
    output_shape = attribute(node, "output_shape", None)
    if output_shape is not None:
        return (1 if axes == ROW else int(output_shape[-2])), int(output_shape[-1])
    if attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return before[0] * stride[0], before[1] * stride[1]
    pads, output_padding = _explicit_pads(node), _pair(node, "output_padding", axes, 0)
    sizes = [
        (before[axis] - 1) * stride[axis] + kernel[axis] + output_padding[axis] - sum(pads[axis])
        for axis in (0, 1)
    ]
    return sizes[0], sizes[1]


def _spread_pads(
    node: Any,
    before: tuple[int, ...],
    after: tuple[int, int],
    stride: tuple[int, int],
    kernel: tuple[int, int],
) -> tuple[int, int]:
    """Return how many leading rows and columns a transposed convolution crops.

    Source: ONNX operator specification, ConvTranspose: with an explicit output shape the padding is
    split evenly; an odd pixel goes after, or before for SAME_LOWER.
    """
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic == b"NOTSET" and attribute(node, "output_shape", None) is None:
        (top, _), (left, _) = _explicit_pads(node)
        return top, left
    totals = [
        max((n - 1) * s + k - size, 0) for n, s, k, size in zip(before, stride, kernel, after, strict=True)
    ]
    odd = automatic == b"SAME_LOWER"
    return (totals[0] + odd) // 2, (totals[1] + odd) // 2


def _max_pool(reading: Reading, node: Any) -> None:
    if len(node.output) > 1 and node.output[1]:
        raise unsupported(node, "the output Indices is not supported")
    source, axes = _image(reading, node)
    window = _Window(reading, node, source, axes, _pair(node, "kernel_shape", axes))
    if window.dilation != (1, 1):
        raise unsupported(node, "dilation is not supported in a pool")
    # For non-negative values zero padding is equivalent to the lowest value, and keeps the int8 range narrow.
    fill = 0.0 if _is_never_negative(reading, source) else _LOWEST
    source, fields = _padded(reading, source, window, node.output[0], fill)
    reading.add("max_pool", [source], node.output[0], window=window.kernel, **fields)
    reading.write(node.output[0], node.output[0], axes)


def _is_never_negative(reading: Reading, tensor: str) -> bool:
    for layer in reversed(reading.layers):
        if layer.output == tensor:
            if layer.kind in ("max_pool", "concat", "reshape", "transpose", "slice"):
                return all(_is_never_negative(reading, name) for name in layer.inputs)
            return layer.kind in _NEVER_NEGATIVE
    return False


def _average_pool(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    window = _Window(reading, node, source, axes, _pair(node, "kernel_shape", axes))
    if window.dilation != (1, 1):
        raise unsupported(node, "dilation is not supported in a pool")
    output, counts_all = node.output[0], bool(attribute(node, "count_include_pad", 0))
    size = window.kernel[0] * window.kernel[1]
    inside, total = _shares(window, with_padding=counts_all), float(size)
    if window.is_padded() and window.is_same() and not counts_all:
        source, fields = _padded(reading, source, window, output)
        reading.add("average_pool", [source], output, window=window.kernel, **fields)
    else:
        pads = ((0, 0), *window.pads, (0, 0))
        if window.is_padded():
            source = reading.add("pad", [source], f"{output}/padded", pads=pads)
        is_exact = bool((inside == total).all())
        name = output if is_exact else f"{output}/sums"
        reading.add(
            "average_pool", [source], name, window=window.kernel, stride=window.stride, padding="valid"
        )
        if not is_exact:  # at the border fewer pixels count than the kernel has
            factors = (total / inside).astype(np.float32)[np.newaxis, :, :, np.newaxis]
            shares = reading.add("constant", (), f"{output}/shares", weights=factors)
            reading.add("mul", [name, shares], output)
    reading.write(output, output, axes)


def _shares(window: _Window, *, with_padding: bool) -> NDArray[np.float64]:
    """Return how many pixels each average divides by, with or without the explicit padding."""
    rows = []
    for axis in (0, 1):
        before, after = window.requested_pads[axis]
        first, last = (-before, window.sizes[axis] + after) if with_padding else (0, window.sizes[axis])
        starts = np.arange(window.counts[axis]) * window.stride[axis] - before
        ends = starts + window.extent[axis]
        rows.append(np.minimum(ends, last) - np.maximum(starts, first))
    return np.asarray(np.outer(rows[0], rows[1]), np.float64)


def _pad(reading: Reading, node: Any) -> None:
    if attribute(node, "mode", b"constant") != b"constant":
        raise unsupported(node, f"padding mode {attribute(node, 'mode', b'').decode()!r} is not supported")
    form, output = reading.form(node.input[0]), node.output[0]
    rank = len(reading.shape(node.input[0]))
    amounts = required_constant(reading, node, 1, "its pads are not constant").ravel()
    fill = reading.constant(node.input[2]) if len(node.input) > 2 else None
    value = 0.0 if fill is None else float(fill.reshape(-1)[0])
    axes = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        axes = [
            int(axis) % rank
            for axis in required_constant(reading, node, 3, "its axes are not constant").ravel()
        ]
    half = len(amounts) // 2
    by_axis = {axis: (int(amounts[n]), int(amounts[half + n])) for n, axis in enumerate(axes)}
    if any(amount < 0 for amount in amounts):
        raise unsupported(node, "negative pads are not supported", "use Slice to crop")
    pads = tuple((0, 0) if axis is None else by_axis.get(axis, (0, 0)) for axis in form.axes)
    reading.write(output, reading.add("pad", [form.tensor], output, pads=pads, value=value), form.axes)


def _resize(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    before, output = reading.shapes[source][1:3], node.output[0]
    after = _resized(reading, node, axes)
    if attribute(node, "antialias", 0):
        raise unsupported(node, "antialias is not supported")
    mode = attribute(node, "mode", b"nearest")
    coordinates = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    if mode not in (b"nearest", b"linear"):
        raise unsupported(
            node, f"resize mode {mode.decode()!r} is not supported", "resize with 'nearest' or 'bilinear'"
        )
    grids = {b"asymmetric": "corner", b"align_corners": "aligned", b"half_pixel": "half_pixel"}
    grid = grids.get(b"half_pixel" if coordinates == b"pytorch_half_pixel" else coordinates)
    if node.op_type == "Upsample":
        grid = "corner"
    if mode == b"nearest" and all(big % small == 0 for small, big in zip(before, after, strict=True)):
        grid = "corner"  # at integer factors every rounding rule picks the same pixel
    elif mode == b"nearest" and (grid != "corner" or attribute(node, "nearest_mode", b"") != b"floor"):
        raise unsupported(
            node, "nearest neighbour is only supported as 'asymmetric, floor'", "resize by an integer factor"
        )
    if grid is None:
        raise unsupported(node, f"coordinate mode {coordinates.decode()!r} is not supported")
    kind: Kind = "resize_nearest" if mode == b"nearest" else "resize_bilinear"
    reading.write(output, reading.add(kind, [source], output, shape=after, grid=grid), axes)


def _resized(reading: Reading, node: Any, axes: Axes) -> tuple[int, int]:
    """Return the height and width after a resize."""
    shape = reading.shape(node.input[0])
    sizes = reading.constant(node.input[3]) if len(node.input) > 3 else None
    if sizes is None:
        index = 1 if node.op_type == "Upsample" else 2
        scales = required_constant(reading, node, index, "its scales are not constant").ravel()
        new_sizes = [
            int(np.floor(size * scale)) for size, scale in zip(shape[-len(scales) :], scales, strict=True)
        ]
    else:
        new_sizes = [int(size) for size in sizes.ravel()]
    if len(new_sizes) == len(shape) and tuple(new_sizes[:2]) != shape[:2]:
        raise unsupported(node, "it resizes the channel axis")
    return (new_sizes[-2] if axes == IMAGE else 1), new_sizes[-1]


WINDOWED: dict[str, Callable[[Reading, Any], None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
