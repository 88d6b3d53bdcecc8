"""Small networks of the shapes that users bring, written as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("red", "green", "blue")


def save(
    path: Path, nodes: list[Any], inputs: Any, outputs: Any, constants: dict[str, Any], meta=None
) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    def info(rows, kind=TensorProto.FLOAT):
        return [helper.make_tensor_value_info(name, kind, shape) for name, shape in rows]

    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **rest) for op, ins, outs, rest in nodes],
        "net",
        info(inputs),
        info(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (meta or {}).items():
        row = model.metadata_props.add()
        row.key, row.value = key, value
    path.write_bytes(model.SerializeToString())
    return path


def ultralytics(task: str, names=CLASSES, **more: str) -> dict[str, str]:
    return {
        "description": "Ultralytics model",
        "version": "8.4.21",
        "stride": "32",
        "task": task,
        "names": str(dict(enumerate(names))),
        "imgsz": "[32, 32]",
    } | more


def classifier(path: Path, meta: dict[str, str] | None = None, classes: int = 3) -> Path:
    """The mean of each colour through a softmax: names the strongest of red, green and blue."""
    return save(
        path,
        [
            ("GlobalAveragePool", ["images"], ["mean"], {}),
            ("Flatten", ["mean"], ["flat"], {}),
            ("MatMul", ["flat", "spread"], ["logits"], {}),
            ("Softmax", ["logits"], ["output0"], {"axis": 1}),
        ],
        [("images", [1, 3, 32, 32])],
        [("output0", [1, classes])],
        {"spread": (np.eye(3, classes) * 10).astype(np.float32)},
        meta,
    )


def as_json(names) -> str:
    return json.dumps({str(number): name for number, name in enumerate(names)})


def detector(
    path: Path, meta: dict[str, str] | None = None, *, rows: bool = False, shares: bool = False
) -> Path:
    """A YOLOv8-style head at 32 x 32: one box in the middle, of the class that is the strongest colour.

    Written as columns of pixels, as rows, or as shares of the input.
    """
    cells = 16 + 4 + 1
    boxes = np.full((1, 4, cells), 2, np.float32)
    boxes[0, :, 7] = (16, 12, 16, 8)
    lit = np.full((1, 1, cells), 0.01, np.float32)
    lit[0, 0, 7] = 0.9
    nodes = [
        ("GlobalAveragePool", ["images"], ["mean"], {}),
        ("Reshape", ["mean", "flat"], ["colour"], {}),
        ("Mul", ["colour", "lit"], ["scores"], {}),
        ("Mul", ["colour", "zero"], ["none"], {}),
        ("ReduceSum", ["none"], ["nothing"], {}),
        ("Add", ["boxes", "nothing"], ["place"], {}),
        ("Concat", ["place", "scores"], ["columns" if rows else "output0"], {"axis": 1}),
    ]
    if rows:
        nodes.append(("Transpose", ["columns"], ["output0"], {"perm": [0, 2, 1]}))
    constants = {
        "flat": np.int64([1, 3, 1]),
        "lit": lit,
        "zero": np.float32([0]),
        "boxes": boxes / 32 if shares else boxes,
    }
    shape = [1, cells, 7] if rows else [1, 7, cells]
    return save(path, nodes, [("images", [1, 3, 32, 32])], [("output0", shape)], constants, meta)
