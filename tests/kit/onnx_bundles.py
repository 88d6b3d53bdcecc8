"""Bundles of one small ONNX model whose nodes a test writes down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

KINDS = {
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "BYTES": TensorProto.STRING,
}


def value(name: str, datatype: str, shape: list[Any]) -> Any:
    """A tensor's declaration; a text in ``shape`` is a free dimension's name."""
    return helper.make_tensor_value_info(name, KINDS[datatype], shape)


def make_doubler(path: Path) -> Path:
    """Write a model that doubles four numbers, ``x`` to ``y``."""
    ends = [("x", "FP32", [1, 4])], [("y", "FP32", [1, 4])]
    return make_onnx(path, [helper.make_node("Add", ["x", "x"], ["y"])], *ends)


def make_onnx(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], **opsets: int) -> Path:
    """Write a model of these nodes; ``inputs`` and ``outputs`` are declarations or (name, type, shape)."""
    declared = [
        [value(*row) if isinstance(row, tuple) else row for row in rows] for rows in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "small", *declared)
    versions = {"": 17} | {name.replace("_", "."): version for name, version in opsets.items()}
    model = helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid(name, n) for name, n in versions.items()]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def make_onnx_bundle(
    folder: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    opsets: dict[str, int],
    /,
    **manifest: Any,
) -> Path:
    """Write a bundle of ``make_onnx``'s model for ONNX Runtime; return its folder.

    ``manifest`` has the fields of ``bundle.json`` that differ from a model of raw tensors; ``labels`` is a
    list of texts, ``variant`` fields of its variant.
    """
    data = make_onnx(folder / "model.onnx", nodes, inputs, outputs, **opsets).read_bytes()
    labels, files = manifest.pop("labels", []), []
    if labels:
        text = "".join(f"{label}\n" for label in labels).encode()
        (folder / "labels.txt").write_bytes(text)
        files = [{"path": "labels.txt", "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}]
    variant = {
        "id": "ort",
        "backend": "onnxruntime",
        "files": [{"path": "model.onnx", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}],
        **manifest.pop("variant", {}),
    }
    document = {
        "format": 1,
        "model": "small",
        "version": "1.0.0",
        "task": "raw",
        "labels": "labels.txt" if labels else "",
        "variants": [variant],
        "files": files,
        **manifest,
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def make_site_bundle(folder: Path) -> Path:
    """Write a model of tables that tells site A from others by its name; return its folder."""
    names: dict[str, Any] = {"keys_strings": ["A"], "values_floats": [1.0], "default_float": 0.0}
    nodes = [
        helper.make_node("LabelEncoder", ["site"], ["is_a"], domain="ai.onnx.ml", **names),
        helper.make_node("Constant", [], ["one"], value_floats=[1.0]),
        helper.make_node("Sub", ["one", "is_a"], ["is_other"]),
        helper.make_node("Concat", ["is_a", "is_other"], ["scores"], axis=1),
    ]
    return make_onnx_bundle(
        folder,
        nodes,
        [("site", "BYTES", [None, 1])],
        [("scores", "FP32", [None, 2])],
        {"ai_onnx_ml": 2},
        model="site",
        task="tabular",
        labels=["a", "other"],
        inputs=[{"name": "site", "datatype": "BYTES", "shape": [1, 1]}],
        outputs=[{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        pre={"resize": "none", "columns": [{"name": "site", "input": "site"}]},
        post={"decoder": "classify", "score_threshold": 0.5, "options": {"activation": "none"}},
    )
