"""Import of ONNX nodes as layers: arithmetic and activations here, the others by table.

Source: ONNX operator specification, opsets 13 to 25.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit_optimize.graph.layer import Kind
from edgekit_optimize.graph.onnx_axes import AXES, common_axes, operand
from edgekit_optimize.graph.onnx_reading import REALS, Reading, unsupported
from edgekit_optimize.graph.onnx_windows import WINDOWED, attribute, required_constant

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
        ModelError: The node has no equivalent in ``Network``.
    """
    if node.op_type in _QUANTISED:
        raise unsupported(node, "the model is already quantised", "start from the float model")
    handler = _NODES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if handler is None:
        raise unsupported(node, "this operator is not supported")
    unknown = [
        name for name in node.input if name and name not in reading.forms and name not in reading.constants
    ]
    if unknown:
        raise unsupported(
            node, f"it reads {unknown[0]!r}, which no node writes", "the file is damaged: export it again"
        )
    handler(reading, node)


# ---------------------------------------------------------------------------------------------
# Element-wise, one tensor


def _unary(reading: Reading, node: Any) -> None:
    source, output = reading.form(node.input[0]), node.output[0]
    fields = {"value": float(attribute(node, "alpha", 0.01))} if node.op_type == "LeakyRelu" else {}
    kinds: dict[str, Kind] = {**_UNARY, "LeakyRelu": "leaky_relu", "Elu": "elu"}
    if node.op_type == "Elu" and attribute(node, "alpha", 1.0) != 1.0:
        raise unsupported(node, "only alpha 1 is supported")
    reading.write(output, reading.add(kinds[node.op_type], [source.tensor], output, **fields), source.axes)


def _same(reading: Reading, node: Any) -> None:
    """Import a node that changes nothing: its output is another name for its input."""
    source = reading.form(node.input[0])
    if node.op_type == "Cast" and attribute(node, "to", 1) not in REALS:
        raise unsupported(node, "casts of activations to integers are not supported")
    if node.op_type == "Dropout" and len(node.output) > 1 and node.output[1]:
        raise unsupported(node, "the mask output of Dropout is not supported")
    # A reshape to the same shape keeps the name; a later pass removes it.
    shape = reading.shapes[source.tensor]
    reading.write(
        node.output[0], reading.add("reshape", [source.tensor], node.output[0], shape=shape), source.axes
    )


def _number(reading: Reading, name: str, value: float, rank: int) -> str:
    return reading.add("constant", (), name, weights=np.full((1,) * rank, value, np.float32))


def _clip(reading: Reading, node: Any) -> None:
    bounds = [reading.constant(node.input[i]) if len(node.input) > i else None for i in (1, 2)]
    if any(len(node.input) > i and node.input[i] and bounds[i - 1] is None for i in (1, 2)):
        raise unsupported(node, "its bounds are not constant")
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
    # clip(x / 6 + 1 / 2, 0, 1) is relu6(x + 3) / 6, whose bounds need no layers of their own.
    shift = _number(reading, f"{output}/shift", beta / alpha, rank)
    scale = _number(reading, f"{output}/scale", alpha, rank)
    shifted = reading.add("add", [form.tensor, shift], f"{output}/moved")
    top = 1.0 / alpha
    if abs(top - 6.0) < 1e-4:
        clipped = reading.add("relu6", [shifted], f"{output}/bent")
        reading.write(output, reading.add("mul", [clipped, scale], output), form.axes)
        return
    scaled = reading.add("mul", [shifted, scale], f"{output}/scaled")
    _bounded(reading, node, 0.0, 1.0, scaled)


# ---------------------------------------------------------------------------------------------
# Element-wise, two tensors


def _binary(reading: Reading, node: Any) -> None:
    if len(node.input) != 2:
        raise unsupported(node, f"it has {len(node.input)} inputs; only two are supported")
    _join(reading, node, _BINARY[node.op_type], list(node.input))


def _join(reading: Reading, node: Any, kind: Kind, names: list[str]) -> None:
    axes, output = common_axes(reading, names), node.output[0]
    operands = [operand(reading, name, axes, output, number) for number, name in enumerate(names)]
    last = reading.layers[-1] if reading.layers else None
    if kind in ("sub", "div") and last and last.kind == "constant" and last.output == operands[1]:
        assert last.weights is not None
        if kind == "sub" or np.all(last.weights):
            replacement = -last.weights if kind == "sub" else np.float32(1) / last.weights
            last.weights[...] = replacement
            kind = "add" if kind == "sub" else "mul"
    if kind in ("add", "mul") and operands[0].endswith("/operand0"):
        operands.reverse()  # constants second, where the folding pass expects them
    reading.write(output, reading.add(kind, operands, output), axes)


def _prelu(reading: Reading, node: Any) -> None:
    _join(reading, node, "prelu", list(node.input))


def _power(reading: Reading, node: Any) -> None:
    exponent = required_constant(reading, node, 1, "its exponent is not constant")
    form, output = reading.form(node.input[0]), node.output[0]
    if exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2.0:
        reading.write(output, reading.add("mul", [form.tensor, form.tensor], output), form.axes)
    elif exponent.size == 1 and float(exponent.reshape(-1)[0]) == 0.5:
        reading.write(output, reading.add("sqrt", [form.tensor], output), form.axes)
    else:
        raise unsupported(node, "only exponents 2 and 0.5 are supported")


def _batch_norm(reading: Reading, node: Any) -> None:
    """Import as a multiplication and an addition per channel, which a later pass folds away."""
    scale, shift, mean, variance = (
        required_constant(reading, node, index, "its parameters are not constant").astype(np.float64)
        for index in range(1, 5)
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
        raise unsupported(node, "a matrix product needs one constant operand, with two axes, on the right")
    is_gemm = node.op_type == "Gemm"
    if is_gemm and attribute(node, "transA", 0):
        raise unsupported(node, "a transposed first operand (transA) is not supported")
    if not (is_gemm and attribute(node, "transB", 0)):
        weights = weights.T
    if is_gemm:
        weights = weights * np.float32(attribute(node, "alpha", 1.0))
    bias = np.zeros(len(weights), np.float32)
    if is_gemm and len(node.input) > 2 and node.input[2]:
        values = required_constant(reading, node, 2, "its bias is not constant")
        bias = bias + np.float32(attribute(node, "beta", 1.0)) * values.reshape(-1).astype(np.float32)
    source, output = reading.plain(node.input[0]), node.output[0]
    if len(reading.shapes[source]) < 2:
        raise unsupported(node, "its input is a vector; it needs a batch axis")
    kernel = np.ascontiguousarray(weights, np.float32)
    reading.add("dense", [source], output, weights=kernel, bias=bias.astype(np.float32))
    reading.write(output, output, tuple(range(len(reading.shapes[output]))))


def _expand(reading: Reading, node: Any) -> None:
    shape = required_constant(reading, node, 1, "its shape is not constant").ravel()
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
