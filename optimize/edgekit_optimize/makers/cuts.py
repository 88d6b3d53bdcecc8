"""Finds where an ONNX model can be cut in two at a single tensor, and extracts the parts."""

from __future__ import annotations

from typing import Any

from edgekit_optimize.makers import graph


def bridges(model: Any) -> dict[int, str]:
    """Return each position in the node list that only one tensor crosses, with that tensor.

    The part before such a position can be run once, and the part after it many times.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = model.graph.node
    last: dict[str, int] = {}
    for position, node in enumerate(nodes):
        last |= dict.fromkeys(_read(node), position)
    last |= {output.name: len(nodes) for output in model.graph.output}
    live = {value.name for value in model.graph.input} - constants
    crossings = {}
    for position, node in enumerate(nodes):
        live = {name for name in live if last.get(name, -1) >= position}
        if len(live) == 1 and position:
            (crossings[position],) = live
        live |= {name for name in node.output if name}
    return crossings


def part(model: Any, begin: int, source: str, end: int | None = None, target: str = "") -> Any:
    """Return the nodes from one position to another as a model.

    Args:
        model: As ``graph.read`` returns it.
        begin: Index of the first node.
        source: The tensor that crosses there, the part's input; empty for the model's inputs.
        end: Index after the last node; None for all remaining nodes.
        target: The part's output tensor; empty for the model's outputs.
    """
    onnx, _ = graph.tools()
    values = {
        value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    nodes = list(model.graph.node)[begin:end]
    used = {name for node in nodes for name in _read(node)}
    outputs = [values[target]] if target else list(model.graph.output)
    cut = onnx.helper.make_graph(
        nodes,
        "part",
        [values[source]] if source else list(model.graph.input),
        outputs,
        [tensor for tensor in model.graph.initializer if tensor.name in used],
        value_info=[value for name, value in values.items() if name in used and name != source],
    )
    model_part = onnx.ModelProto(ir_version=model.ir_version, graph=cut)
    model_part.opset_import.extend(model.opset_import)
    return model_part


def _read(node: Any) -> set[str]:
    """Return the tensors that a node reads, including those its subgraphs read."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for other in inner.node:
                names |= _read(other)
    return names
