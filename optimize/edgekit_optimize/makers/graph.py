"""Reads and checks ONNX graphs, and finds their layers and the share of work of each.

A *layer* here is a Conv, ConvTranspose, Gemm or MatMul node. It is identified by its output tensor,
whose name survives most graph rewrites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BackendUnavailableError, ModelError

WORKING: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPSET: Final = 13  # per-channel DequantizeLinear needs 13
_INSTALL: Final = "pip install 'edgekit-optimize[tools]'"


@dataclass(frozen=True)
class LayerFact:
    """A layer: its output tensor, operator, node, and share of the work.

    ``multiply_adds`` is its share of the model's multiply-adds, 0 to 1, and ``count`` their number; 0 if
    shapes are unknown.
    """

    name: str
    operator: str
    multiply_adds: float
    count: int = 0
    node: str = ""


def tools() -> tuple[Any, Any]:
    """Return the ``onnx`` and ``onnxruntime`` packages.

    Raises:
        BackendUnavailableError: One of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as cause:
        raise BackendUnavailableError(f"{cause.name} is not installed", hint=_INSTALL) from cause
    return onnx, onnxruntime


def read(path: Path) -> Any:
    """Return the checked model of an ONNX file, with all nodes named and all shapes inferred.

    Returns:
        An ``onnx.ModelProto`` of opset 13 or newer, inputs of fixed shape, finite weights.

    Raises:
        ModelError: It is not an ONNX file, an input size is free, a weight is not finite, or an
            operator cannot be converted to opset 13.
    """
    onnx, _ = tools()
    try:
        model = onnx.load(str(path))
    except Exception as cause:  # protobuf, onnx and the file system have no common base
        raise ModelError(f"{path.name} is not an ONNX file: {cause}") from cause
    _check_inputs(model, path.name)
    _check_weights(model)
    return prepared(raised(model))


def prepared(model: Any) -> Any:
    """Return the model with shapes inferred and every node named uniquely, as ``operator:output``."""
    onnx, _ = tools()
    model = onnx.shape_inference.infer_shapes(model)
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}:{node.output[0] if node.output else len(taken)}"
        taken.add(node.name)
    return model


def opset(model: Any) -> int:
    """Return the version of the standard operators that a model uses."""
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def raised(model: Any) -> Any:
    """Return the model converted to at least opset 13, which per-channel weights need.

    Raises:
        ModelError: An operator cannot be converted.
    """
    if opset(model) >= _OPSET:
        return model
    return converted(model, _OPSET)


def converted(model: Any, version: int) -> Any:
    """Return the model converted to another opset.

    Raises:
        ModelError: A node cannot be converted; the message names the first one.
    """
    onnx, _ = tools()
    from onnx import version_converter

    try:
        result = version_converter.convert_version(model, version)
        onnx.checker.check_model(result)
    except Exception as cause:  # the converter raises RuntimeError, the checker its own type
        raise ModelError(
            f"{blamed(model, str(cause))} cannot be written in ONNX opset {version}: {first_line(cause)}",
            hint="export the model with that opset, or replace the operator in the model",
        ) from cause
    return result


def first_line(cause: object) -> str:
    """Return an exception's message as one short line, without OpenVINO's source locations."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Check '", "Exception from", "FrontEnd API"))]
    return next(iter(telling or lines), repr(cause))[:300]


def blamed(model: Any, text: str) -> str:
    """Return the node that a tool's message is about, as ``layer 'x' (Operator)``.

    Looks for the name of a node or of its output first, then for the name of an operator.
    """
    nodes = [node for node in model.graph.node if node.output]
    for node in sorted(nodes, key=lambda node: -len(node.output[0])):
        if any(len(name) > 2 and name in text for name in (node.name, node.output[0])):
            return f"layer {node.output[0]!r} ({node.op_type})"
    mentioned = set(re.findall(r"[A-Za-z0-9_]+", text))
    for node in nodes:
        if node.op_type in mentioned:
            return f"layer {node.output[0]!r} ({node.op_type})"
    return "the model"


def written_by(model: Any, tensor: str) -> str:
    """Return the source of a tensor, as ``layer 'x' (Operator)`` or ``input 'x'``."""
    writer = next((node for node in model.graph.node if tensor in node.output), None)
    return f"layer {tensor!r} ({writer.op_type})" if writer else f"input {tensor!r}"


def layers_of(model: Any) -> tuple[LayerFact, ...]:
    """Return all layers, in graph order."""
    shapes = tensor_shapes(model)
    counts = [(node, _multiply_adds(node, shapes)) for node in model.graph.node if node.op_type in WORKING]
    total = max(sum(count for _, count in counts), 1)
    return tuple(
        LayerFact(node.output[0], node.op_type, count / total, count, node.name) for node, count in counts
    )


def tensor_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor and constant whose shape is fully known."""
    graph = model.graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim):
            shapes[value.name] = tuple(int(size.dim_value) for size in tensor.shape.dim)
    return shapes


def float_activations(model: Any) -> tuple[str, ...]:
    """Return the float32 inputs and node outputs, in graph order."""
    onnx, _ = tools()
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    constant_nodes = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    names = [value.name for value in graph.input] + [name for node in graph.node for name in node.output]
    return tuple(
        name
        for name in dict.fromkeys(names)
        if kinds.get(name) == onnx.TensorProto.FLOAT and name not in constants and name not in constant_nodes
    )


def constants(model: Any) -> Mapping[str, NDArray[Any]]:
    """Return the initializers as arrays, by name, decoded on access."""
    return _Constants(model)


class _Constants(Mapping[str, "NDArray[Any]"]):
    def __init__(self, model: Any) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __getitem__(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def aliases(model: Any, name: str) -> tuple[str, ...]:
    """Return a layer's output tensor and its successors along a chain of single readers.

    A fused layer keeps the name of the last tensor in the chain; use the first one that still exists.
    """
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for source in node.input:
            readers.setdefault(source, []).append(node)
    names = [name]
    while len(names) < 6 and len(readers.get(names[-1], [])) == 1:
        follower = readers[names[-1]][0]
        if len(follower.output) != 1 or follower.op_type in WORKING:
            break
        names.append(follower.output[0])
    return tuple(names)


def nodes_named(original: Any, model: Any, names: tuple[str, ...]) -> list[str]:
    """Return the node names in a rewritten model of layers given by their original output tensors.

    Raises:
        ModelError: The original has no such layer, or the rewritten model no longer has it.
    """
    written = {output: node for node in original.graph.node for output in node.output}
    producers = {output: node for node in model.graph.node for output in node.output}
    matching = []
    for name in names:
        if name not in written:
            raise unknown_layer(name, [fact.name for fact in layers_of(original)])
        operator = written[name].op_type
        nodes = [producers[alias] for alias in aliases(original, name) if alias in producers]
        same = [node for node in nodes if node.op_type == operator] or [
            node for node in nodes if node.op_type in WORKING
        ]
        if not same:
            raise ModelError(
                f"layer {name!r} ({operator}) was fused into another, so it cannot be kept in float",
                hint="set the option fused to false",
            )
        matching.append(same[0].name)
    return matching


def unknown_layer(name: str, layers: list[str]) -> ModelError:
    """Return the error for an unknown layer in ``keep_float``."""
    listed = ", ".join(map(repr, layers[:5])) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
    return ModelError(f"keep_float: the model has no layer {name!r}", hint=f"its layers are {listed}")


def _check_inputs(model: Any, what: str) -> None:
    constant = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        sizes = [
            size.dim_value if size.HasField("dim_value") else size.dim_param or "?"
            for size in value.type.tensor_type.shape.dim
        ]
        if value.name not in constant and any(not isinstance(size, int) or size <= 0 for size in sizes):
            raise ModelError(
                f"{what}: input {value.name!r} has the free shape {tuple(sizes)}",
                hint="give the model a fixed shape of batch size 1 before compressing it",
            )


def _check_weights(model: Any) -> None:
    for name, values in constants(model).items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            users = [node for node in model.graph.node if name in node.input]
            where = f" of layer {users[0].output[0]!r} ({users[0].op_type})" if users else ""
            # Attention masks use minus infinity on purpose.
            if users and users[0].op_type in ("Add", "Where", "Max", "Min", "Clip", "Pad"):
                continue
            raise ModelError(
                f"constant {name!r}{where} holds values that are not finite",
                hint="train or export the model again: such weights make every output NaN",
            )


def _multiply_adds(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    source, weights, output = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if weights is None or output is None:
        return 0
    if node.op_type == "Conv":
        return prod(output) * prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return prod(source) * prod(weights[1:]) if source else 0
    if node.op_type == "Gemm":
        is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return prod(output) * weights[1 if is_transposed else 0]
    return prod(output) * weights[-2] if len(weights) > 1 else prod(output) * weights[0]
