"""What each ONNX operator is as layers: arithmetic, shapes and activations.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.optimize.layer import Kind
from edgekit.optimize.onnx_reading import IMAGE, REALS, Axes, Reading, refused
from edgekit.optimize.onnx_windows import WINDOWED, attribute, wanted_constant

Handler = Callable[[Reading, Any], None]

_UNARY: dict[str, Kind] = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "HardSwish": "hard_swish",
    "Exp": "exp",
    "Sqrt": "sqrt",
    "Abs": "abs",
    "Neg": "neg",
}
_BINARY: dict[str, Kind] = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Min": "minimum",
    "Max": "maximum",
}
_REDUCTIONS: dict[str, Kind] = {"ReduceMean": "mean", "ReduceMax": "reduce_max", "ReduceSum": "reduce_sum"}
_QUANTISED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"}
)


def read_node(reading: Reading, node: Any) -> None:
    """Append the layers of one node.

    Raises:
        ModelError: A network cannot say what the node does.
    """
    if node.op_type in _QUANTISED:
        raise refused(node, "the model is quantised already", "start from the float model")
    handler = _NODES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if handler is None:
        raise refused(node, "there is no layer for this operator")
    unknown = [
        name for name in node.input if name and name not in reading.forms and name not in reading.constants
    ]
    if unknown:
        raise refused(
            node, f"it reads {unknown[0]!r}, which nothing wrote", "the file is damaged: export it again"
        )
    handler(reading, node)


# ---------------------------------------------------------------------------------------------
# One tensor, value by value


def _unary(reading: Reading, node: Any) -> None:
    source, output = reading.form(node.input[0]), node.output[0]
    fields = {"value": float(attribute(node, "alpha", 0.01))} if node.op_type == "LeakyRelu" else {}
    kinds: dict[str, Kind] = {**_UNARY, "LeakyRelu": "leaky_relu", "Elu": "elu"}
    if node.op_type == "Elu" and attribute(node, "alpha", 1.0) != 1.0:
        raise refused(node, "only alpha 1 can be said")
    reading.write(output, reading.add(kinds[node.op_type], [source.tensor], output, **fields), source.axes)


def _same(reading: Reading, node: Any) -> None:
    """A node that changes nothing here: its output is another name for its input."""
    source = reading.form(node.input[0])
    if node.op_type == "Cast" and attribute(node, "to", 1) not in REALS:
        raise refused(node, "activations can only be real numbers")
    if node.op_type == "Dropout" and len(node.output) > 1 and node.output[1]:
        raise refused(node, "the mask of a dropout has no meaning after training")
    # As a reshape to the same shape it keeps its name, until it is found to be idle.
    shape = reading.shapes[source.tensor]
    reading.write(
        node.output[0], reading.add("reshape", [source.tensor], node.output[0], shape=shape), source.axes
    )


def _number(reading: Reading, name: str, value: float, rank: int) -> str:
    return reading.add("constant", (), name, weights=np.full((1,) * rank, value, np.float32))


def _clip(reading: Reading, node: Any) -> None:
    bounds = [reading.constant(node.input[i]) if len(node.input) > i else None for i in (1, 2)]
    if any(len(node.input) > i and node.input[i] and bounds[i - 1] is None for i in (1, 2)):
        raise refused(node, "its bounds are computed")
    low = -np.inf if bounds[0] is None else float(bounds[0])
    high = np.inf if bounds[1] is None else float(bounds[1])
    _bounded(reading, node, low, high)


def _bounded(reading: Reading, node: Any, low: float, high: float, source: str | None = None) -> None:
    form, output = reading.form(node.input[0]), node.output[0]
    tensor, rank = source or form.tensor, len(form.axes)
    if low == 0.0 and high in (6.0, np.inf):
        tensor = reading.add("relu6" if high == 6.0 else "relu", [tensor], output)
    else:
        steps: list[tuple[Kind, float]] = [("maximum", low), ("minimum", high)]
        steps = [(kind, bound) for kind, bound in steps if np.isfinite(bound)]
        for number, (kind, bound) in enumerate(steps, 1):
            name = output if number == len(steps) else f"{output}/{kind}"
            limit = _number(reading, f"{output}/{kind}/bound", bound, rank)
            tensor = reading.add(kind, [tensor, limit], name)
    reading.write(output, tensor, form.axes)


def _hard_sigmoid(reading: Reading, node: Any) -> None:
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    form, output = reading.form(node.input[0]), node.output[0]
    rank = len(form.axes)
    # clip(x / 6 + 1 / 2, 0, 1) is relu6(x + 3) / 6, and the bounds then cost nothing.
    shift = _number(reading, f"{output}/shift", beta / alpha, rank)
    scale = _number(reading, f"{output}/scale", alpha, rank)
    moved = reading.add("add", [form.tensor, shift], f"{output}/moved")
    top = 1.0 / alpha
    if abs(top - 6.0) < 1e-4:
        bent = reading.add("relu6", [moved], f"{output}/bent")
        reading.write(output, reading.add("mul", [bent, scale], output), form.axes)
        return
    scaled = reading.add("mul", [moved, scale], f"{output}/scaled")
    _bounded(reading, node, 0.0, 1.0, scaled)


# ---------------------------------------------------------------------------------------------
# Two tensors


def _common_axes(reading: Reading, names: list[str]) -> Axes:
    """Return the order of axes in which to join tensors: that of the first that is turned."""
    rank = max(len(reading.shape(name)) for name in names)
    computed = [name for name in names if name in reading.forms and len(reading.shape(name)) == rank]
    plain: Axes = tuple(range(rank))
    orders = [reading.forms[name].axes for name in computed]
    return next((axes for axes in orders if axes != plain), plain)


def _operand(reading: Reading, name: str, axes: Axes, output: str, number: int) -> str:
    """Return a tensor as it is wanted for joining: as many axes as the other, in the same order."""
    rank = sum(axis is not None for axis in axes)
    values = reading.constant(name)
    if values is not None and name not in reading.forms:
        full = np.asarray(values, np.float32).reshape((1,) * (rank - values.ndim) + values.shape)
        ordered = full.transpose([axis for axis in axes if axis is not None])
        for place, axis in enumerate(axes):
            if axis is None:
                ordered = np.expand_dims(ordered, place)
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


def _binary(reading: Reading, node: Any) -> None:
    if len(node.input) != 2:
        raise refused(node, f"it joins {len(node.input)} tensors; a layer joins two")
    _join(reading, node, _BINARY[node.op_type], list(node.input))


def _join(reading: Reading, node: Any, kind: Kind, names: list[str]) -> None:
    axes, output = _common_axes(reading, names), node.output[0]
    operands = [_operand(reading, name, axes, output, number) for number, name in enumerate(names)]
    made = reading.layers[-1] if reading.layers else None
    if kind in ("sub", "div") and made and made.kind == "constant" and made.output == operands[1]:
        assert made.weights is not None
        if kind == "sub" or np.all(made.weights):
            turned = -made.weights if kind == "sub" else np.float32(1) / made.weights
            made.weights[...] = turned
            kind = "add" if kind == "sub" else "mul"
    if kind in ("add", "mul") and operands[0].endswith("/operand0"):
        operands.reverse()  # constants second, where what absorbs them looks
    reading.write(output, reading.add(kind, operands, output), axes)


def _prelu(reading: Reading, node: Any) -> None:
    _join(reading, node, "prelu", list(node.input))


def _power(reading: Reading, node: Any) -> None:
    exponent = wanted_constant(reading, node, 1, "its exponent is computed")
    form, output = reading.form(node.input[0]), node.output[0]
    if exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0:
        reading.write(output, reading.add("mul", [form.tensor, form.tensor], output), form.axes)
    elif exponent.size == 1 and float(exponent.reshape(-1)[0]) == 0.5:
        reading.write(output, reading.add("sqrt", [form.tensor], output), form.axes)
    else:
        raise refused(node, "only squares and square roots can be said")


def _batch_norm(reading: Reading, node: Any) -> None:
    """Multiply and add, channel by channel; what is before it will absorb both."""
    scale, shift, mean, variance = (
        wanted_constant(reading, node, place, "its parameters are computed").astype(np.float64)
        for place in range(1, 5)
    )
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    output, form = node.output[0], reading.form(node.input[0])
    rank = sum(axis is not None for axis in form.axes)
    shape = (-1, *[1] * (rank - 2))
    for name, values in (("factor", factor), ("offset", shift - mean * factor)):
        reading.constants[f"{output}/{name}"] = values.reshape(shape).astype(np.float32)
    factors = _operand(reading, f"{output}/factor", form.axes, output, 0)
    scaled = reading.add("mul", [form.tensor, factors], f"{output}/scaled")
    offsets = _operand(reading, f"{output}/offset", form.axes, output, 1)
    reading.write(output, reading.add("add", [scaled, offsets], output), form.axes)


def _dense(reading: Reading, node: Any) -> None:
    weights = reading.constant(node.input[1])
    if weights is None or weights.ndim != 2 or reading.constant(node.input[0]) is not None:
        raise refused(node, "a matrix product of two computed tensors has no layer here")
    is_gemm = node.op_type == "Gemm"
    if is_gemm and attribute(node, "transA", 0):
        raise refused(node, "its first matrix is turned")
    if not (is_gemm and attribute(node, "transB", 0)):
        weights = weights.T
    if is_gemm:
        weights = weights * np.float32(attribute(node, "alpha", 1.0))
    bias = np.zeros(len(weights), np.float32)
    if is_gemm and len(node.input) > 2 and node.input[2]:
        given = wanted_constant(reading, node, 2, "its bias is computed")
        bias = bias + np.float32(attribute(node, "beta", 1.0)) * given.reshape(-1).astype(np.float32)
    source, output = reading.plain(node.input[0]), node.output[0]
    if len(reading.shapes[source]) < 2:
        raise refused(node, "it multiplies a vector; a layer wants a batch")
    kernel = np.ascontiguousarray(weights, np.float32)
    reading.add("dense", [source], output, weights=kernel, bias=bias.astype(np.float32))
    reading.write(output, output, tuple(range(len(reading.shapes[output]))))


# ---------------------------------------------------------------------------------------------
# Axes


def _reduce(reading: Reading, node: Any) -> None:
    given = reading.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", None)
    if given is None and len(node.input) > 1 and node.input[1]:
        raise refused(node, "its axes are computed")
    form = reading.form(node.input[0])
    rank = sum(axis is not None for axis in form.axes)
    over = {int(axis) % rank for axis in (range(rank) if given is None else np.asarray(given).ravel())}
    keeps, output = bool(attribute(node, "keepdims", 1)), node.output[0]
    places = tuple(place for place, axis in enumerate(form.axes) if axis in over)
    fields = {"axes": places, "keeps_axes": keeps}
    reading.add(_REDUCTIONS[node.op_type], [form.tensor], output, **fields)
    left = sorted(set(range(rank)) - over)
    axes: Axes = form.axes
    if not keeps:
        axes = tuple(None if axis is None else left.index(axis) for axis in form.axes if axis not in over)
    reading.write(output, output, axes)


def _global_pool(reading: Reading, node: Any) -> None:
    form, output = reading.form(node.input[0]), node.output[0]
    kind: Kind = "mean" if node.op_type == "GlobalAveragePool" else "reduce_max"
    places = tuple(place for place, axis in enumerate(form.axes) if axis not in (0, 1))
    reading.write(output, reading.add(kind, [form.tensor], output, axes=places, keeps_axes=True), form.axes)


def _softmax(reading: Reading, node: Any) -> None:
    shape, output = reading.shape(node.input[0]), node.output[0]
    axis = int(attribute(node, "axis", -1)) % len(shape)
    form = reading.form(node.input[0])
    axes = form.axes
    if axes[-1] != axis:
        axes = (*(other for other in range(len(shape)) if other != axis), axis)
    reading.write(output, reading.add("softmax", [reading.turned(node.input[0], axes)], output), axes)


def _transpose(reading: Reading, node: Any) -> None:
    """Turn nothing: remember that the axes are called otherwise from here on."""
    form = reading.form(node.input[0])
    order = list(attribute(node, "perm", range(len(reading.shape(node.input[0])))[::-1]))
    axes = tuple(None if axis is None else order.index(axis) for axis in form.axes)
    reading.write(node.output[0], form.tensor, axes)


def _reshape(reading: Reading, node: Any) -> None:
    shape, output = reading.shape(node.input[0]), node.output[0]
    wanted = _target(reading, node, shape)
    source = reading.plain(node.input[0])
    reading.write(output, reading.add("reshape", [source], output, shape=wanted), tuple(range(len(wanted))))


def _target(reading: Reading, node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a node gives that only groups values anew."""
    if node.op_type == "Flatten":
        axis = int(attribute(node, "axis", 1)) % (len(shape) + 1)
        return int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))
    given = (
        wanted_constant(reading, node, 1, "its shape is computed")
        if len(node.input) > 1 and node.input[1]
        else None
    )
    if node.op_type == "Reshape":
        assert given is not None
        sizes = [shape[place] if size == 0 else int(size) for place, size in enumerate(given.ravel())]
        known = int(np.prod([size for size in sizes if size != -1]))
        return tuple(int(np.prod(shape)) // known if size == -1 else size for size in sizes)
    rank = len(shape)
    if node.op_type == "Squeeze":
        every = [axis for axis in range(rank) if shape[axis] == 1]
        gone = {int(axis) % rank for axis in (every if given is None else given.ravel())}
        return tuple(size for axis, size in enumerate(shape) if axis not in gone)
    assert given is not None
    fresh = {int(axis) % (rank + given.size) for axis in given.ravel()}
    sizes_left = iter(shape)
    return tuple(1 if axis in fresh else next(sizes_left) for axis in range(rank + given.size))


def _concat(reading: Reading, node: Any) -> None:
    names, output = list(node.input), node.output[0]
    axes = _common_axes(reading, names)
    axis = int(attribute(node, "axis", 0)) % len(reading.shape(names[0]))
    operands = [_operand(reading, name, axes, output, number) for number, name in enumerate(names)]
    reading.write(output, reading.add("concat", operands, output, axis=axes.index(axis)), axes)


def _expand(reading: Reading, node: Any) -> None:
    shape = wanted_constant(reading, node, 1, "its shape is computed").ravel()
    reading.constants[f"{node.output[0]}/ones"] = np.ones(shape.astype(np.int64), np.float32)
    _join(reading, node, "mul", [node.input[0], f"{node.output[0]}/ones"])


def _shape(reading: Reading, node: Any) -> None:
    sizes = np.asarray(reading.shape(node.input[0]), np.int64)
    start, end = int(attribute(node, "start", 0)), attribute(node, "end", None)
    reading.constants[node.output[0]] = sizes[start : None if end is None else int(end)]


def _slice(reading: Reading, node: Any) -> None:
    shape = reading.shape(node.input[0])
    given: list[NDArray[Any]] = [
        wanted_constant(reading, node, place, "what it takes is computed")
        for place in range(1, len(node.input))
        if node.input[place]
    ]
    starts, ends = (values.ravel() for values in given[:2])
    over = given[2].ravel() if len(given) > 2 else np.arange(len(starts))
    steps = given[3].ravel() if len(given) > 3 else np.ones(len(starts), np.int64)
    if min(steps, default=1) < 1:
        raise refused(node, "it goes backwards")
    parts = {
        int(axis) % len(shape): range(shape[int(axis)])[slice(int(start), int(end), int(step))]
        for axis, start, end, step in zip(over, starts, ends, steps, strict=True)
    }
    take(reading, node.input[0], node.output[0], parts)


def take(reading: Reading, source: str, output: str, parts: dict[int, range]) -> None:
    """Append a slice of a tensor: from each of these ONNX axes, these places."""
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
        starts=tuple(places.start for places in ranges),
        shape=tuple(len(places) for places in ranges),
        steps=tuple(places.step for places in ranges),
    )
    reading.write(output, output, form.axes)


def _split(reading: Reading, node: Any) -> None:
    shape = reading.shape(node.input[0])
    axis = int(attribute(node, "axis", 0)) % len(shape)
    count = len(node.output)
    if len(node.input) > 1 and node.input[1]:
        sizes = [int(size) for size in wanted_constant(reading, node, 1, "its sizes are computed").ravel()]
    else:
        each = -(-shape[axis] // count)
        sizes = [min(each, shape[axis] - number * each) for number in range(count)]
    start = 0
    for output, size in zip(node.output, sizes, strict=True):
        if output:
            take(reading, node.input[0], output, {axis: range(start, start + size)})
        start += size


def _gather(reading: Reading, node: Any) -> None:
    places = wanted_constant(reading, node, 1, "its places are computed").astype(np.int64)
    shape, output = reading.shape(node.input[0]), node.output[0]
    axis = int(attribute(node, "axis", 0)) % len(shape)
    wanted = [int(place) % shape[axis] for place in places.ravel()]
    step = wanted[1] - wanted[0] if len(wanted) > 1 else 1
    found = range(wanted[0], wanted[0] + step * len(wanted), step) if wanted and step > 0 else range(0)
    if places.ndim > 1 or list(found) != wanted:
        raise refused(node, "only places at equal steps can be taken")
    if places.ndim == 1:
        take(reading, node.input[0], output, {axis: found})
        return
    take(reading, node.input[0], f"{output}/kept", {axis: found})
    left = (*shape[:axis], *shape[axis + 1 :])
    source = reading.plain(f"{output}/kept")
    reading.write(output, reading.add("reshape", [source], output, shape=left), tuple(range(len(left))))


def _space(reading: Reading, node: Any) -> None:
    block, output = int(attribute(node, "blocksize", 0)), node.output[0]
    source = reading.turned(node.input[0], IMAGE)
    if node.op_type == "DepthToSpace" and attribute(node, "mode", b"DCR") == b"DCR":
        reading.write(output, reading.add("depth_to_space", [source], output, value=float(block)), IMAGE)
        return
    _, height, width, channels = reading.shapes[source]
    if node.op_type == "DepthToSpace":
        split, order = (height, width, channels // block**2, block, block), (0, 3, 1, 4, 2)
        whole = (1, height * block, width * block, channels // block**2)
    else:
        split, order = (height // block, block, width // block, block, channels), (0, 2, 1, 3, 4)
        whole = (1, height // block, width // block, channels * block**2)
    parts = reading.add("reshape", [source], f"{output}/parts", shape=split)
    moved = reading.add("transpose", [parts], f"{output}/moved", axes=order)
    reading.write(output, reading.add("reshape", [moved], output, shape=whole), IMAGE)


_NODES: dict[str, Handler] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **WINDOWED,
    "LeakyRelu": _unary,
    "Elu": _unary,
    "PRelu": _prelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Pow": _power,
    "BatchNormalization": _batch_norm,
    "Gemm": _dense,
    "MatMul": _dense,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Concat": _concat,
    "Expand": _expand,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "DepthToSpace": _space,
    "SpaceToDepth": _space,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _same,
}
