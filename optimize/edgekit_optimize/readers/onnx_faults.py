"""What makes an ONNX model unfit to convert: each fault named by node, operator and tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from edgekit.core.errors import ModelError

STANDARD: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Domains of operators that every runtime means the same by."""

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
# An infinity is a sound constant in a mask or a bound, never in a weight.
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
    """Return what to call a node in an error: its name, or its first output, and its operator."""
    name = node.name or (node.output[0] if node.output else "")
    return f"node {name!r} ({node.op_type})"


def culprit(model: Any, cause: BaseException) -> str:
    """Return which node ONNX Runtime's message complains of, as far as it tells."""
    found = _NODE_IN_ERROR.search(str(cause))
    name = next((group for group in found.groups() if group), "") if found else ""
    kind = next((node.op_type for node in every_node(model.graph) if node.name == name), "")
    return f"node {name!r} ({kind})" if name else "the model"


def check_operators(model: Any, what: str) -> None:
    """Make sure that every operator is standard ONNX and of a float model.

    Raises:
        ModelError: An operator is of a vendor's domain, not of the model's opset, or quantises.
    """
    from onnx import defs

    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    for node in every_node(model.graph):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in STANDARD:
            raise ModelError(
                f"{what}: {label(node)} is an operator of {domain!r}, which only some runtimes know",
                hint="export the model with standard ONNX operators only, before any optimiser of a runtime",
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
                f"{what}: {label(node)} is no operator of ONNX opset {version}",
                hint="export the model again, without custom operators",
            ) from cause


def check_weights(model: Any, what: str) -> None:
    """Make sure that no weight is NaN, and none that a layer multiplies by is infinite.

    Raises:
        ModelError: One is; the error names the tensor and the node that reads it.
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
