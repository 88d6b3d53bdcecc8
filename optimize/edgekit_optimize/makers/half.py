"""Converts ONNX models to float16; inputs and outputs stay float32."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any, Final

from edgekit.core.errors import ModelError
from edgekit_optimize.makers import graph
from edgekit_optimize.makers.ranges import observe
from edgekit_optimize.makers.samples import Feeds
from edgekit_optimize.quiet import hushed

_LARGEST: Final = 65504.0 / 2  # float16's maximum, with headroom for other data


def too_large(model: Any, samples: Sequence[Feeds]) -> tuple[str, ...]:
    """Return the tensors with values on these samples that are too large for float16."""
    produced = {name for node in model.graph.node for name in node.output}
    ranges = observe(model, samples)
    return tuple(
        name for name, (low, high) in ranges.items() if name in produced and max(-low, high) > _LARGEST
    )


def halved(model: Any, keep_float: Collection[str]) -> Any:
    """Return the model converted to float16.

    Args:
        model: As ``graph.read`` returns it.
        keep_float: Names of the nodes that stay in float32.

    Raises:
        ModelError: The converter fails; the message names the layer.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx, _ = graph.tools()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about each weight too small for float16
            result = convert_float_to_float16(copy, keep_io_types=True, node_block_list=sorted(keep_float))
    except Exception as cause:  # the converter raises exceptions of any type
        raise ModelError(
            f"{graph.blamed(model, str(cause))} cannot be converted to float16: {graph.first_line(cause)}",
            hint="leave that layer in float: keep_float",
        ) from cause
    _sort(result)  # the converter appends its casts at the end, which not every reader accepts
    return result


def _sort(model: Any) -> None:
    """Sort the nodes topologically, keeping their order where possible."""
    nodes = list(model.graph.node)
    writers = {name: node for node in nodes for name in node.output}
    placed: dict[int, Any] = {}
    for last in nodes:
        pending = [last]
        while pending:
            node = pending[-1]
            before = [writers[name] for name in node.input if name in writers]
            missing = [other for other in before if id(other) not in placed and other is not node]
            if missing and len(pending) <= len(writers):
                pending += missing
            else:
                placed.setdefault(id(pending.pop()), node)
    ordered = [type(node).FromString(node.SerializeToString()) for node in placed.values()]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
