"""What the ONNX operators that look through a window are as layers: convolutions, pools, pads, resizes.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_optimize.graph.layer import Kind, same_padding
from edgekit_optimize.graph.onnx_reading import IMAGE, ROW, Axes, Reading, refused

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


def wanted_constant(reading: Reading, node: Any, place: int, why: str) -> NDArray[Any]:
    """Return a node's input that must be a constant.

    Raises:
        ModelError: It is not.
    """
    found = reading.constant(node.input[place]) if len(node.input) > place else None
    if found is None:
        raise refused(node, why, "export the model with fixed sizes and constant weights")
    return found


def _image(reading: Reading, node: Any) -> tuple[str, Axes]:
    """Return the channels-last form of a node's first input; a row is an image of height 1."""
    axes = {4: IMAGE, 3: ROW}.get(len(reading.shape(node.input[0])))
    if axes is None:
        raise refused(
            node, f"it looks at {len(reading.shape(node.input[0])) - 2} dimensions; one or two can be said"
        )
    return reading.turned(node.input[0], axes), axes


def _pair(node: Any, name: str, axes: Axes, default: int = 1) -> tuple[int, int]:
    given = [int(value) for value in attribute(node, name, [default] * (len(axes) - 2))]
    return (default if len(given) < 2 else given[0], given[-1])


def _given_pads(node: Any) -> Pads:
    """Return the padding (before, after) of height and width that a node asks for; a row has width only."""
    given = [int(value) for value in attribute(node, "pads", [0] * 4)]
    half = len(given) // 2
    pairs = list(zip(given[:half], given[half:], strict=True))
    return (pairs[0] if half > 1 else (0, 0)), pairs[-1]


class _Window:
    """A window over height and width: its size, and the padding that the node asks for."""

    def __init__(self, reading: Reading, node: Any, source: str, axes: Axes, kernel: tuple[int, int]) -> None:
        self.kernel = kernel
        self.stride, self.dilation = _pair(node, "strides", axes), _pair(node, "dilations", axes)
        self.sizes = reading.shapes[source][1:3]
        self.extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, self.dilation, strict=True))
        self.asked = self._asked(node)
        self.ceil = bool(attribute(node, "ceil_mode", 0))
        self.counts = [self._count(axis) for axis in (0, 1)]
        self.pads = tuple(self._used(axis) for axis in (0, 1))

    def _asked(self, node: Any) -> Pads:
        automatic = attribute(node, "auto_pad", b"NOTSET")
        if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
            found = [same_padding(*facts) for facts in zip(self.sizes, self.extent, self.stride, strict=True)]
            turned = [pads if automatic == b"SAME_UPPER" else pads[::-1] for pads in found]
            return turned[0], turned[1]
        return _given_pads(node)

    def _count(self, axis: int) -> int:
        (before, after), stride = self.asked[axis], self.stride[axis]
        room = self.sizes[axis] + before + after - self.extent[axis]
        count = (-(-room // stride) if self.ceil else room // stride) + 1
        # A window that would begin in the padding after the image is left out.
        return count - 1 if self.ceil and (count - 1) * stride >= self.sizes[axis] + before else count

    def _used(self, axis: int) -> tuple[int, int]:
        """Return the padding that a window reaches: strides may leave the last of it out."""
        before = self.asked[axis][0]
        reach = (self.counts[axis] - 1) * self.stride[axis] + self.extent[axis]
        return before, max(reach - self.sizes[axis] - before, 0)

    def is_same(self) -> bool:
        """Return whether TensorFlow's "same" padding is what this window wants."""
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
    """Return the tensor for a window to look at, and the fields of the layer that does."""
    fields: dict[str, Any] = {"stride": window.stride, "padding": "valid"}
    if not window.is_padded():
        return source, fields
    if window.is_same():
        return source, {**fields, "padding": "same"}
    pads = ((0, 0), *window.pads, (0, 0))
    return reading.add("pad", [source], f"{output}/padded", pads=pads, value=fill), fields


def _conv(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    given = wanted_constant(reading, node, 1, "its weights are computed").astype(np.float32)
    weights = given if given.ndim == 4 else given[:, :, np.newaxis]
    output, channels = node.output[0], reading.shapes[source][3]
    groups = int(attribute(node, "group", 1))
    if weights.shape[1] * groups != channels:
        raise refused(
            node, f"its weights are for {weights.shape[1] * groups} channels, its input has {channels}"
        )
    bias = np.zeros(len(weights), np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = wanted_constant(reading, node, 2, "its bias is computed").astype(np.float32)
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
    given = wanted_constant(reading, node, 1, "its weights are computed").astype(np.float32)
    weights = given if given.ndim == 4 else given[:, :, np.newaxis]
    if int(attribute(node, "group", 1)) != 1 or _pair(node, "dilations", axes) != (1, 1):
        raise refused(node, "groups and holes in a transposed convolution have no layer here")
    output, bias = node.output[0], np.zeros(weights.shape[1], np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = wanted_constant(reading, node, 2, "its bias is computed").astype(np.float32)
    before, after = reading.shapes[source][1:3], _spread_sizes(reading, node, source, axes, weights.shape[2:])
    stride, kernel = _pair(node, "strides", axes), (weights.shape[2], weights.shape[3])
    pads = _spread_pads(node, before, after, stride, kernel)
    is_same = all(
        after[axis] == before[axis] * stride[axis]
        and pads[axis] == same_padding(after[axis], kernel[axis], stride[axis])[0]
        for axis in (0, 1)
    )
    whole = after == tuple((n - 1) * s + k for n, s, k in zip(before, stride, kernel, strict=True))
    name = output if is_same or whole else f"{output}/whole"
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
        have = reading.shapes[name]
        if any(pads[axis] + after[axis] > have[axis + 1] for axis in (0, 1)):
            raise refused(node, "it adds more padding to its output than its window covers")
        starts = (0, *pads, 0)
        reading.add("slice", [name], output, starts=starts, shape=(have[0], *after, have[3]))
    reading.write(output, output, axes)


def _spread_sizes(
    reading: Reading, node: Any, source: str, axes: Axes, kernel: tuple[int, ...]
) -> tuple[int, int]:
    """Return the height and width that a transposed convolution gives."""
    before, stride = reading.shapes[source][1:3], _pair(node, "strides", axes)
    asked = attribute(node, "output_shape", None)
    if asked is not None:
        return (1 if axes == ROW else int(asked[-2])), int(asked[-1])
    if attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return before[0] * stride[0], before[1] * stride[1]
    pads, more = _given_pads(node), _pair(node, "output_padding", axes, 0)
    sizes = [
        (before[axis] - 1) * stride[axis] + kernel[axis] + more[axis] - sum(pads[axis]) for axis in (0, 1)
    ]
    return sizes[0], sizes[1]


def _spread_pads(
    node: Any,
    before: tuple[int, ...],
    after: tuple[int, int],
    stride: tuple[int, int],
    kernel: tuple[int, int],
) -> tuple[int, int]:
    """Return how many rows and columns a transposed convolution leaves out at the start.

    Source: ONNX operator specification, ConvTranspose: with a given output shape the padding is
    shared between both sides, the odd one after, but for SAME_LOWER.
    """
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic == b"NOTSET" and attribute(node, "output_shape", None) is None:
        (top, _), (left, _) = _given_pads(node)
        return top, left
    totals = [
        max((n - 1) * s + k - size, 0) for n, s, k, size in zip(before, stride, kernel, after, strict=True)
    ]
    odd = automatic == b"SAME_LOWER"
    return (totals[0] + odd) // 2, (totals[1] + odd) // 2


def _max_pool(reading: Reading, node: Any) -> None:
    if len(node.output) > 1 and node.output[1]:
        raise refused(node, "the places of its maxima are wanted too")
    source, axes = _image(reading, node)
    window = _Window(reading, node, source, axes, _pair(node, "kernel_shape", axes))
    if window.dilation != (1, 1):
        raise refused(node, "its window has holes")
    # Zeros never win over what is never negative, and cost an int8 tensor no range.
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
        raise refused(node, "its window has holes")
    output, counts_all = node.output[0], bool(attribute(node, "count_include_pad", 0))
    size = window.kernel[0] * window.kernel[1]
    inside, total = _shares(window, asked=counts_all), float(size)
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
        if not is_exact:  # at the border fewer pixels count than the window has
            factors = (total / inside).astype(np.float32)[np.newaxis, :, :, np.newaxis]
            shares = reading.add("constant", (), f"{output}/shares", weights=factors)
            reading.add("mul", [name, shares], output)
    reading.write(output, output, axes)


def _shares(window: _Window, *, asked: bool) -> NDArray[np.float64]:
    """Return how many pixels count at each position: the image's, or the asked padding's too."""
    rows = []
    for axis in (0, 1):
        before, after = window.asked[axis]
        first, last = (-before, window.sizes[axis] + after) if asked else (0, window.sizes[axis])
        starts = np.arange(window.counts[axis]) * window.stride[axis] - before
        ends = starts + window.extent[axis]
        rows.append(np.minimum(ends, last) - np.maximum(starts, first))
    return np.asarray(np.outer(rows[0], rows[1]), np.float64)


def _pad(reading: Reading, node: Any) -> None:
    if attribute(node, "mode", b"constant") != b"constant":
        raise refused(node, f"padding of mode {attribute(node, 'mode', b'').decode()!r} has no layer here")
    form, output = reading.form(node.input[0]), node.output[0]
    rank = len(reading.shape(node.input[0]))
    amounts = wanted_constant(reading, node, 1, "its pads are computed").ravel()
    given = reading.constant(node.input[2]) if len(node.input) > 2 else None
    value = 0.0 if given is None else float(given.reshape(-1)[0])
    over = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        over = [
            int(axis) % rank for axis in wanted_constant(reading, node, 3, "its axes are computed").ravel()
        ]
    half = len(amounts) // 2
    by_axis = {axis: (int(amounts[n]), int(amounts[half + n])) for n, axis in enumerate(over)}
    if any(amount < 0 for amount in amounts):
        raise refused(node, "it cuts off (negative pads)", "use Slice to cut")
    pads = tuple((0, 0) if axis is None else by_axis.get(axis, (0, 0)) for axis in form.axes)
    reading.write(output, reading.add("pad", [form.tensor], output, pads=pads, value=value), form.axes)


def _resize(reading: Reading, node: Any) -> None:
    source, axes = _image(reading, node)
    before, output = reading.shapes[source][1:3], node.output[0]
    after = _resized(reading, node, axes)
    if attribute(node, "antialias", 0):
        raise refused(node, "smoothing before making smaller (antialias) has no layer here")
    mode = attribute(node, "mode", b"nearest")
    where = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    if mode not in (b"nearest", b"linear"):
        raise refused(
            node, f"mode {mode.decode()!r} has no layer here", "resize with 'nearest' or 'bilinear'"
        )
    grids = {b"asymmetric": "corner", b"align_corners": "aligned", b"half_pixel": "half_pixel"}
    grid = grids.get(b"half_pixel" if where == b"pytorch_half_pixel" else where)
    if node.op_type == "Upsample":
        grid = "corner"
    if mode == b"nearest" and all(big % small == 0 for small, big in zip(before, after, strict=True)):
        grid = "corner"  # at whole factors every way of rounding takes the same pixel
    elif mode == b"nearest" and (grid != "corner" or attribute(node, "nearest_mode", b"") != b"floor"):
        raise refused(
            node, "nearest neighbours by another rule than 'asymmetric, floor'", "resize by a whole factor"
        )
    if grid is None:
        raise refused(node, f"coordinates by {where.decode()!r} have no layer here")
    kind: Kind = "resize_nearest" if mode == b"nearest" else "resize_bilinear"
    reading.write(output, reading.add(kind, [source], output, shape=after, grid=grid), axes)


def _resized(reading: Reading, node: Any, axes: Axes) -> tuple[int, int]:
    """Return the height and width after a resize."""
    shape = reading.shape(node.input[0])
    sizes = reading.constant(node.input[3]) if len(node.input) > 3 else None
    if sizes is None:
        place = 1 if node.op_type == "Upsample" else 2
        scales = wanted_constant(reading, node, place, "its scales are computed").ravel()
        wanted = [
            int(np.floor(size * scale)) for size, scale in zip(shape[-len(scales) :], scales, strict=True)
        ]
    else:
        wanted = [int(size) for size in sizes.ravel()]
    if len(wanted) == len(shape) and tuple(wanted[:2]) != shape[:2]:
        raise refused(node, "it resizes channels")
    return (wanted[-2] if axes == IMAGE else 1), wanted[-1]


WINDOWED: dict[str, Callable[[Reading, Any], None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
