"""What each ONNX operator is as layers: arithmetic, shapes and activations.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit_optimize.graph.layer import Kind
from edgekit_optimize.graph.onnx_axes import AXES, common_axes, operand
from edgekit_optimize.graph.onnx_reading import REALS, Reading, refused
from edgekit_optimize.graph.onnx_windows import WINDOWED, attribute, wanted_constant

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


def _binary(reading: Reading, node: Any) -> None:
    if len(node.input) != 2:
        raise refused(node, f"it joins {len(node.input)} tensors; a layer joins two")
    _join(reading, node, _BINARY[node.op_type], list(node.input))


def _join(reading: Reading, node: Any, kind: Kind, names: list[str]) -> None:
    axes, output = common_axes(reading, names), node.output[0]
    operands = [operand(reading, name, axes, output, number) for number, name in enumerate(names)]
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
    factors = operand(reading, f"{output}/factor", form.axes, output, 0)
    scaled = reading.add("mul", [form.tensor, factors], f"{output}/scaled")
    offsets = operand(reading, f"{output}/offset", form.axes, output, 1)
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


def _expand(reading: Reading, node: Any) -> None:
    shape = wanted_constant(reading, node, 1, "its shape is computed").ravel()
    reading.constants[f"{node.output[0]}/ones"] = np.ones(shape.astype(np.int64), np.float32)
    _join(reading, node, "mul", [node.input[0], f"{node.output[0]}/ones"])


_NODES: dict[str, Handler] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **WINDOWED,
    **AXES,
    "LeakyRelu": _unary,
    "Elu": _unary,
    "PRelu": _prelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "Pow": _power,
    "BatchNormalization": _batch_norm,
    "Gemm": _dense,
    "MatMul": _dense,
    "Expand": _expand,
    "Identity": _same,
    "Dropout": _same,
    "Cast": _same,
}
