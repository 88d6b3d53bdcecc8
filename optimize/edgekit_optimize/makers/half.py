"""ONNX models in float16, for accelerators that compute in it. Inputs and outputs stay float32."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any, Final

from edgekit.core.errors import ModelError
from edgekit_optimize.makers import graph
from edgekit_optimize.makers.ranges import observe
from edgekit_optimize.makers.samples import Feeds
from edgekit_optimize.quiet import hushed

_LARGEST: Final = 65504.0 / 2  # float16's largest number, with room for other data


def too_large(model: Any, samples: Sequence[Feeds]) -> tuple[str, ...]:
    """Return the tensors that hold, on these samples, values that float16 cannot be trusted with."""
    produced = {name for node in model.graph.node for name in node.output}
    ranges = observe(model, samples)
    return tuple(
        name for name, (low, high) in ranges.items() if name in produced and max(-low, high) > _LARGEST
    )


def halved(model: Any, kept: Collection[str]) -> Any:
    """Return the model computing in float16.

    Args:
        model: As ``graph.read`` returns it.
        kept: Names of the nodes that stay in float32.

    Raises:
        ModelError: The converter fails; names the layer.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx, _ = graph.tools()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of each weight that is too small for 16 bits
            made = convert_float_to_float16(copy, keep_io_types=True, node_block_list=sorted(kept))
    except Exception as cause:  # the converter raises whatever comes
        raise ModelError(
            f"{graph.blamed(model, str(cause))} cannot be written in float16: {graph.first_line(cause)}",
            hint="leave that layer in float: keep_float",
        ) from cause
    _sort(made)  # the converter puts its casts at the end, where not every reader looks for them
    return made


def _sort(model: Any) -> None:
    """Put each node after those whose tensors it reads, and otherwise where it was."""
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
