"""Check an ONNX model for what cannot be converted; errors name the node, operator or tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from edgekit.core.errors import ModelError

STANDARD: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operator domains of standard ONNX."""

_QUANTISED: Final = frozenset(
    {
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
# Infinity is a valid constant in a mask or a bound, but never in a weight.
_WEIGHTED: Final = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "LSTM",
        "GRU",
        "RNN",
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "PRelu",
    }
)
_NODE_IN_ERROR: Final = re.compile(r"node with name '([^']*)'|Name:'([^']*)'|Node \(([^)]*)\)")


def every_node(graph: Any) -> Iterator[Any]:
    """Yield a graph's nodes and those of the graphs inside them (``If``, ``Loop``, ``Scan``)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from every_node(inner)


def label(node: Any) -> str:
    """Return a node's description for an error: its name (or first output) and its operator."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node {name!r} ({node.op_type})"


def culprit(model: Any, cause: BaseException) -> str:
    """Return the node that ONNX Runtime's message names, or "the model" if it names none."""
    match = _NODE_IN_ERROR.search(str(cause))
    name = next((group for group in match.groups() if group), "") if match else ""
    kind = next((node.op_type for node in every_node(model.graph) if node.name == name), "")
    return f"node {name!r} ({kind})" if name else "the model"


def check_operators(model: Any, what: str) -> None:
    """Check that every operator is standard ONNX and that none quantises.

    Raises:
        ModelError: An operator is a vendor's, is not in the model's opset, or quantises.
    """
    from onnx import defs

    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    for node in every_node(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in STANDARD:
            raise ModelError(
                f"{what}: {label(node)} is an operator of {domain!r}, which only some runtimes support",
                hint="export the model with standard ONNX operators only, before any runtime's optimiser",
            )
        if node.op_type in _QUANTISED:
            raise ModelError(
                f"{what}: {label(node)} quantises: this model is quantised already",
                hint="give the float model; edgekit makes the quantised ones",
            )
        version = versions.get(domain, 1)
        try:
            defs.get_schema(node.op_type, version, domain)
        except defs.SchemaError as cause:
            raise ModelError(
                f"{what}: {label(node)} is not an operator of ONNX opset {version}",
                hint="export the model again, without custom operators",
            ) from cause


def check_weights(model: Any, what: str) -> None:
    """Check that no constant is NaN and no layer's weight is infinite.

    Raises:
        ModelError: One is; the error names the tensor and its node.
    """
    from onnx import numpy_helper

    readers: dict[str, Any] = {}
    constants = list(model.graph.initializer)
    for node in every_node(model.graph):
        for name in node.input:
            readers.setdefault(name, node)
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            tensor = node.attribute[0].t
            tensor.name = tensor.name or node.output[0]
            constants.append(tensor)
    for tensor in constants:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind != "f":
            continue
        reader = readers.get(tensor.name)
        wrong = np.isnan(values)
        if reader is not None and reader.op_type in _WEIGHTED:
            wrong = ~np.isfinite(values)
        if wrong.any():
            raise ModelError(
                f"{what}: weight {tensor.name!r} of {label(reader) if reader else 'no node'} has "
                f"{int(wrong.sum())} of {values.size} values that are NaN or infinite",
                hint="training diverged or the file is damaged: take a checkpoint whose weights are finite",
            )
