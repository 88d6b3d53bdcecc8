"""ONNX for the Myriad X, whose last OpenVINO (2021.4) reads opset 11 and plain operators."""

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
    """Return the model in opset 11, each operator checked against what that opset says of it.

    The ``onnx`` package's own converter has no way down for operators as common as Clip.

    Raises:
        ModelError: An operator, an attribute or an input has no older form; names the layer.
    """
    onnx, _ = graph.tools()
    old = onnx.ModelProto()
    old.CopyFrom(model)
    _split_hard_swish(old)
    for node in old.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, OPSET, ""):
            raise _refused(node, f"there is no {node.op_type} in it")
        _lower(node, graph.constants(old), graph.opset(model))
    del old.opset_import[:]
    old.opset_import.add(domain="", version=OPSET)
    old.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(old)
        return graph.prepared(old)
    except Exception as cause:  # the checker's and the inference's exceptions have no common base
        raise ModelError(
            f"{graph.blamed(old, str(cause))} cannot be written in ONNX opset {OPSET}: "
            f"{graph.first_line(cause)}",
            hint=f"export the model with opset {OPSET}",
        ) from cause


def _lower(node: Any, values: Mapping[str, NDArray[Any]], version: int) -> None:
    """Rewrite one node as opset 11 has it: fewer attributes, axes as an attribute."""
    onnx, _ = graph.tools()
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    newer = onnx.defs.get_schema(node.op_type, version, "")
    for attribute in [a for a in node.attribute if a.name not in schema.attributes]:
        usual = newer.attributes[attribute.name].default_value
        if onnx.helper.get_attribute_value(attribute) != onnx.helper.get_attribute_value(usual):
            raise _refused(node, f"it has no attribute {attribute.name!r}")
        node.attribute.remove(attribute)
    word = next((name for name in ("axes", "split") if name in schema.attributes), "")
    if len(node.input) == 2 and schema.max_input == 1 and word:
        if node.input[1] not in values:
            raise _refused(node, f"its {word} must be known beforehand")
        numbers = [int(value) for value in values[node.input[1]].ravel()]
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute(word, numbers))
    if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and not any(
        attribute.name == "axis" for attribute in node.attribute
    ):
        node.attribute.append(onnx.helper.make_attribute("axis", -1))  # the default was 1


def _split_hard_swish(model: Any) -> None:
    """Write HardSwish, which came with opset 14, as a HardSigmoid and a Mul."""
    onnx, _ = graph.tools()
    for place, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type != "HardSwish":
            continue
        source, gate = node.input[0], f"{node.output[0]}/gate"
        make = onnx.helper.make_node
        first = make("HardSigmoid", [source], [gate], name=f"{node.name}/gate", alpha=1.0 / 6.0, beta=0.5)
        second = make("Mul", [source, gate], [node.output[0]], name=node.name)
        model.graph.node.remove(node)
        model.graph.node.insert(place, second)
        model.graph.node.insert(place, first)


def _refused(node: Any, why: str) -> ModelError:
    return ModelError(
        f"layer {node.output[0]!r} ({node.op_type}) cannot be written in ONNX opset {OPSET}: {why}",
        hint="replace the operator in the model; Myriad takes float models of operators from 2019",
    )


def compare(root: Root, before: Any, after: Any) -> None:
    """Check that two models answer the same, on calibration data or, without any, on noise.

    Raises:
        ModelError: They differ: an operator means something else in the older opset.
    """
    feeds = calibration(root, limit=1)[0] if root.calibration else _noise(root)
    found = [_run(model, feeds) for model in (before, after)]
    for output, wanted, got in zip(after.graph.output, *found, strict=True):
        scale = float(np.abs(wanted).max(initial=1e-6))
        difference = float(np.abs(wanted - got).max(initial=0.0))
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
