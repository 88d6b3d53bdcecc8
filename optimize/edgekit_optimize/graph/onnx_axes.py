"""Import of ONNX operators that reshape, permute, slice, join or reduce along axes.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_optimize.graph.layer import Kind
from edgekit_optimize.graph.onnx_reading import IMAGE, Axes, Reading, unsupported
from edgekit_optimize.graph.onnx_windows import attribute, required_constant

_REDUCTIONS: dict[str, Kind] = {"ReduceMean": "mean", "ReduceMax": "reduce_max", "ReduceSum": "reduce_sum"}


def common_axes(reading: Reading, names: list[str]) -> Axes:
    """Return the axis order in which to combine tensors: that of the first permuted one."""
    rank = max(len(reading.shape(name)) for name in names)
    computed = [name for name in names if name in reading.forms and len(reading.shape(name)) == rank]
    file_order: Axes = tuple(range(rank))
    orders = [reading.forms[name].axes for name in computed]
    return next((axes for axes in orders if axes != file_order), file_order)


def operand(reading: Reading, name: str, axes: Axes, output: str, number: int) -> str:
    """Return a tensor prepared for a binary layer: expanded to the rank of ``axes``, in that order."""
    rank = sum(axis is not None for axis in axes)
    values = reading.constant(name)
    if values is not None and name not in reading.forms:
        full = np.asarray(values, np.float32).reshape((1,) * (rank - values.ndim) + values.shape)
        ordered = full.transpose([axis for axis in axes if axis is not None])
        for position, axis in enumerate(axes):
            if axis is None:
                ordered = np.expand_dims(ordered, position)
        return reading.add("constant", (), f"{output}/operand{number}", weights=np.array(ordered, order="C"))
    shape = reading.shape(name)
    if len(shape) == rank:
        return reading.turned(name, axes)
    wide = f"{output}/wide{number}"
    full_shape = (*(1,) * (rank - len(shape)), *shape)
    reading.write(
        wide, reading.add("reshape", [reading.plain(name)], wide, shape=full_shape), tuple(range(rank))
    )
    return reading.turned(wide, axes)


def _reduce(reading: Reading, node: Any) -> None:
    values = reading.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", None)
    if values is None and len(node.input) > 1 and node.input[1]:
        raise unsupported(node, "its axes are not constant")
    form = reading.form(node.input[0])
    rank = sum(axis is not None for axis in form.axes)
    reduced = {int(axis) % rank for axis in (range(rank) if values is None else np.asarray(values).ravel())}
    keeps, output = bool(attribute(node, "keepdims", 1)), node.output[0]
    positions = tuple(position for position, axis in enumerate(form.axes) if axis in reduced)
    fields = {"axes": positions, "keeps_axes": keeps}
    reading.add(_REDUCTIONS[node.op_type], [form.tensor], output, **fields)
    rest = sorted(set(range(rank)) - reduced)
    axes: Axes = form.axes
    if not keeps:
        axes = tuple(None if axis is None else rest.index(axis) for axis in form.axes if axis not in reduced)
    reading.write(output, output, axes)


def _global_pool(reading: Reading, node: Any) -> None:
    form, output = reading.form(node.input[0]), node.output[0]
    kind: Kind = "mean" if node.op_type == "GlobalAveragePool" else "reduce_max"
    positions = tuple(position for position, axis in enumerate(form.axes) if axis not in (0, 1))
    reading.write(
        output, reading.add(kind, [form.tensor], output, axes=positions, keeps_axes=True), form.axes
    )


def _softmax(reading: Reading, node: Any) -> None:
    shape, output = reading.shape(node.input[0]), node.output[0]
    axis = int(attribute(node, "axis", -1)) % len(shape)
    form = reading.form(node.input[0])
    axes = form.axes
    if axes[-1] != axis:
        axes = (*(other for other in range(len(shape)) if other != axis), axis)
    reading.write(output, reading.add("softmax", [reading.turned(node.input[0], axes)], output), axes)


def _transpose(reading: Reading, node: Any) -> None:
    """Add no layer; only record the new order of axes."""
    form = reading.form(node.input[0])
    order = list(attribute(node, "perm", range(len(reading.shape(node.input[0])))[::-1]))
    axes = tuple(None if axis is None else order.index(axis) for axis in form.axes)
    reading.write(node.output[0], form.tensor, axes)


def _reshape(reading: Reading, node: Any) -> None:
    shape, output = reading.shape(node.input[0]), node.output[0]
    target = _target(reading, node, shape)
    source = reading.plain(node.input[0])
    reading.write(output, reading.add("reshape", [source], output, shape=target), tuple(range(len(target))))


def _target(reading: Reading, node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the output shape of a Reshape, Flatten, Squeeze or Unsqueeze node."""
    if node.op_type == "Flatten":
        axis = int(attribute(node, "axis", 1)) % (len(shape) + 1)
        return int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))
    values = (
        required_constant(reading, node, 1, "its shape is not constant")
        if len(node.input) > 1 and node.input[1]
        else None
    )
    if node.op_type == "Reshape":
        assert values is not None
        sizes = [shape[index] if size == 0 else int(size) for index, size in enumerate(values.ravel())]
        known = int(np.prod([size for size in sizes if size != -1]))
        return tuple(int(np.prod(shape)) // known if size == -1 else size for size in sizes)
    rank = len(shape)
    if node.op_type == "Squeeze":
        unit_axes = [axis for axis in range(rank) if shape[axis] == 1]
        removed = {int(axis) % rank for axis in (unit_axes if values is None else values.ravel())}
        return tuple(size for axis, size in enumerate(shape) if axis not in removed)
    assert values is not None
    added = {int(axis) % (rank + values.size) for axis in values.ravel()}
    sizes_left = iter(shape)
    return tuple(1 if axis in added else next(sizes_left) for axis in range(rank + values.size))


def _concat(reading: Reading, node: Any) -> None:
    names, output = list(node.input), node.output[0]
    axes = common_axes(reading, names)
    axis = int(attribute(node, "axis", 0)) % len(reading.shape(names[0]))
    operands = [operand(reading, name, axes, output, number) for number, name in enumerate(names)]
    reading.write(output, reading.add("concat", operands, output, axis=axes.index(axis)), axes)


def _shape(reading: Reading, node: Any) -> None:
    sizes = np.asarray(reading.shape(node.input[0]), np.int64)
    start, end = int(attribute(node, "start", 0)), attribute(node, "end", None)
    reading.constants[node.output[0]] = sizes[start : None if end is None else int(end)]


def _slice(reading: Reading, node: Any) -> None:
    shape = reading.shape(node.input[0])
    arguments: list[NDArray[Any]] = [
        required_constant(reading, node, index, "its bounds are not constant")
        for index in range(1, len(node.input))
        if node.input[index]
    ]
    starts, ends = (values.ravel() for values in arguments[:2])
    axes = arguments[2].ravel() if len(arguments) > 2 else np.arange(len(starts))
    steps = arguments[3].ravel() if len(arguments) > 3 else np.ones(len(starts), np.int64)
    if min(steps, default=1) < 1:
        raise unsupported(node, "negative steps are not supported")
    parts = {
        int(axis) % len(shape): range(shape[int(axis)])[slice(int(start), int(end), int(step))]
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    take(reading, node.input[0], node.output[0], parts)


def take(reading: Reading, source: str, output: str, parts: dict[int, range]) -> None:
    """Append a slice of a tensor; ``parts`` maps an ONNX axis to the range of indices to keep."""
    form = reading.form(source)
    sizes = reading.shapes[form.tensor]
    ranges = [
        parts.get(-1 if axis is None else axis, range(size))
        for axis, size in zip(form.axes, sizes, strict=True)
    ]
    reading.add(
        "slice",
        [form.tensor],
        output,
        starts=tuple(indices.start for indices in ranges),
        shape=tuple(len(indices) for indices in ranges),
        steps=tuple(indices.step for indices in ranges),
    )
    reading.write(output, output, form.axes)


def _split(reading: Reading, node: Any) -> None:
    shape = reading.shape(node.input[0])
    axis = int(attribute(node, "axis", 0)) % len(shape)
    count = len(node.output)
    if len(node.input) > 1 and node.input[1]:
        sizes = [
            int(size) for size in required_constant(reading, node, 1, "its sizes are not constant").ravel()
        ]
    else:
        part_size = -(-shape[axis] // count)
        sizes = [min(part_size, shape[axis] - number * part_size) for number in range(count)]
    start = 0
    for output, size in zip(node.output, sizes, strict=True):
        if output:
            take(reading, node.input[0], output, {axis: range(start, start + size)})
        start += size


def _gather(reading: Reading, node: Any) -> None:
    indices = required_constant(reading, node, 1, "its indices are not constant").astype(np.int64)
    shape, output = reading.shape(node.input[0]), node.output[0]
    axis = int(attribute(node, "axis", 0)) % len(shape)
    picked = [int(index) % shape[axis] for index in indices.ravel()]
    step = picked[1] - picked[0] if len(picked) > 1 else 1
    span = range(picked[0], picked[0] + step * len(picked), step) if picked and step > 0 else range(0)
    if indices.ndim > 1 or list(span) != picked:
        raise unsupported(node, "only indices at a constant positive step are supported")
    if indices.ndim == 1:
        take(reading, node.input[0], output, {axis: span})
        return
    take(reading, node.input[0], f"{output}/kept", {axis: span})
    rest = (*shape[:axis], *shape[axis + 1 :])
    source = reading.plain(f"{output}/kept")
    reading.write(
        output,
        reading.add("reshape", [source], output, shape=rest),
        tuple(range(len(rest))),
    )


def _space(reading: Reading, node: Any) -> None:
    block, output = int(attribute(node, "blocksize", 0)), node.output[0]
    source = reading.turned(node.input[0], IMAGE)
    if node.op_type == "DepthToSpace" and attribute(node, "mode", b"DCR") == b"DCR":
        reading.write(output, reading.add("depth_to_space", [source], output, value=float(block)), IMAGE)
        return
    _, height, width, channels = reading.shapes[source]
    if node.op_type == "DepthToSpace":
        split, order = (height, width, channels // block**2, block, block), (0, 3, 1, 4, 2)
        result_shape = (1, height * block, width * block, channels // block**2)
    else:
        split, order = (height // block, block, width // block, block, channels), (0, 2, 1, 3, 4)
        result_shape = (1, height // block, width // block, channels * block**2)
    parts = reading.add("reshape", [source], f"{output}/parts", shape=split)
    moved = reading.add("transpose", [parts], f"{output}/moved", axes=order)
    reading.write(output, reading.add("reshape", [moved], output, shape=result_shape), IMAGE)


AXES: dict[str, Callable[[Reading, Any], None]] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Concat": _concat,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "DepthToSpace": _space,
    "SpaceToDepth": _space,
}
