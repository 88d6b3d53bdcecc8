"""Widen a half-precision ONNX model to float32, so that every candidate starts from float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from edgekit_optimize.readers.onnx_faults import every_node
from edgekit_optimize.readers.tools import library

WIDENED: Final = "widened from half precision to float32"
HALF_LIMIT: Final = 2e-2
"""Limit of a check against a half-precision source, whose 11 bits round at every layer."""

_TO: Final = frozenset({"to", "dtype"})


def widen(model: Any) -> tuple[str, ...]:
    """Convert every float16 and bfloat16 tensor to float32, in place and without loss.

    Returns:
        A sentence for each change.
    """
    onnx = library("onnx")
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    values = [value.type.tensor_type for value in (*model.graph.input, *model.graph.output)]
    tensors = list(model.graph.initializer)
    casts = []
    for node in every_node(model.graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                tensors.append(attribute.t)
            if attribute.name in _TO and node.op_type != "QuantizeLinear" and attribute.i in halves:
                casts.append(attribute)
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                tensors.extend(inner.initializer)
                values.extend(value.type.tensor_type for value in (*inner.input, *inner.output))
    halved = [tensor for tensor in tensors if tensor.data_type in halves]
    changed = [value for value in values if value.elem_type in halves]
    for tensor in halved:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for value in changed:
        value.elem_type = onnx.TensorProto.FLOAT
    for attribute in casts:
        attribute.i = onnx.TensorProto.FLOAT
    del model.graph.value_info[:]
    return (WIDENED,) if halved or changed else ()
