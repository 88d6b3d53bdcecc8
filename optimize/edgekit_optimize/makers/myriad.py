"""Converts ONNX to opset 11 for the Myriad X, as needed by its last OpenVINO version (2021.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.makers import graph
from edgekit_optimize.makers.samples import Feeds, calibration
from edgekit_optimize.plan import Root

OPSET: Final = 11
IR_VERSION: Final = 6
_LIMIT: Final = 1e-3


def lowered(model: Any) -> Any:
    """Return the model in opset 11, with each node checked against that opset's schema.

    The converter of the ``onnx`` package cannot downgrade even common operators such as Clip.

    Raises:
        ModelError: An operator, attribute or input has no equivalent; the message names the layer.
    """
    onnx, _ = graph.tools()
    old = onnx.ModelProto()
    old.CopyFrom(model)
    _split_hard_swish(old)
    for node in old.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, OPSET, ""):
            raise _refused(node, f"opset {OPSET} has no {node.op_type}")
        _lower(node, graph.constants(old), graph.opset(model))
    del old.opset_import[:]
    old.opset_import.add(domain="", version=OPSET)
    old.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(old)
        return graph.prepared(old)
    except Exception as cause:  # the exceptions of checker and shape inference have no common base
        raise ModelError(
            f"{graph.blamed(old, str(cause))} cannot be written in ONNX opset {OPSET}: "
            f"{graph.first_line(cause)}",
            hint=f"export the model with opset {OPSET}",
        ) from cause


def _lower(node: Any, values: Mapping[str, NDArray[Any]], version: int) -> None:
    """Rewrite one node for opset 11: fewer attributes, axes as an attribute."""
    onnx, _ = graph.tools()
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    newer = onnx.defs.get_schema(node.op_type, version, "")
    for attribute in [a for a in node.attribute if a.name not in schema.attributes]:
        usual = newer.attributes[attribute.name].default_value
        if onnx.helper.get_attribute_value(attribute) != onnx.helper.get_attribute_value(usual):
            raise _refused(node, f"attribute {attribute.name!r} does not exist there")
        node.attribute.remove(attribute)
    field = next((name for name in ("axes", "split") if name in schema.attributes), "")
    if len(node.input) == 2 and schema.max_input == 1 and field:
        if node.input[1] not in values:
            raise _refused(node, f"its {field} must be constant")
        numbers = [int(value) for value in values[node.input[1]].ravel()]
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute(field, numbers))
    if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and not any(
        attribute.name == "axis" for attribute in node.attribute
    ):
        node.attribute.append(onnx.helper.make_attribute("axis", -1))  # the default was 1


def _split_hard_swish(model: Any) -> None:
    """Replace HardSwish, which exists from opset 14 on, by a HardSigmoid and a Mul."""
    onnx, _ = graph.tools()
    for index, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "HardSwish":
            continue
        source, gate = node.input[0], f"{node.output[0]}/gate"
        make = onnx.helper.make_node
        first = make("HardSigmoid", [source], [gate], name=f"{node.name}/gate", alpha=1.0 / 6.0, beta=0.5)
        second = make("Mul", [source, gate], [node.output[0]], name=node.name)
        model.graph.node.remove(node)
        model.graph.node.insert(index, second)
        model.graph.node.insert(index, first)


def _refused(node: Any, why: str) -> ModelError:
    return ModelError(
        f"layer {node.output[0]!r} ({node.op_type}) cannot be written in ONNX opset {OPSET}: {why}",
        hint="replace the operator in the model; Myriad supports only float models with operators of 2019",
    )


def compare(root: Root, before: Any, after: Any) -> None:
    """Check that two models give the same outputs, on calibration data or else on noise.

    Raises:
        ModelError: They differ: an operator behaves differently in the older opset.
    """
    feeds = calibration(root, limit=1)[0] if root.calibration else _noise(root)
    outputs = [_run(model, feeds) for model in (before, after)]
    for output, expected, actual in zip(after.graph.output, *outputs, strict=True):
        scale = float(np.abs(expected).max(initial=1e-6))
        difference = float(np.abs(expected - actual).max(initial=0.0))
        if not difference <= _LIMIT * scale:
            raise ModelError(
                f"output {output.name!r} differs by {difference:.3g} of {scale:.3g} in ONNX opset {OPSET}",
                hint=f"export the model with opset {OPSET}",
            )


def _run(model: Any, feeds: Feeds) -> list[NDArray[Any]]:
    _, onnxruntime = graph.tools()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, feeds))
    except Exception as cause:  # the library's exceptions have no common base
        raise ModelError(
            f"{graph.blamed(model, str(cause))} does not run in ONNX opset {graph.opset(model)}: "
            f"{graph.first_line(cause)}"
        ) from cause


def _noise(root: Root) -> Feeds:
    rng = np.random.default_rng(0)
    return {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in root.inputs}
