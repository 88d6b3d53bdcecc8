# ruff: noqa: INP001 - a user's folder, no package
"""The detector's layers, and its weights as an ONNX file: an anchor-free head of the YOLO family.

``export`` needs ``onnx`` and no torch: it writes what ``train.py`` trained, ``weights.npz``. The file's only
output is [1, 4 + classes, cells], a column for each cell of strides 8, 16 and 32: centre x, centre y, width
and height in pixels of the input, then a probability for each class, as exports of the YOLO families have it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 128
STRIDES = (8, 16, 32)
CLASSES = 3
WEIGHTS = Path(__file__).with_name("weights.npz")
LAYERS = (
    ("stem", 3, 12, 2),
    ("down4", 12, 24, 2),
    ("down8", 24, 40, 2),
    ("level8", 40, 40, 1),
    ("down16", 40, 56, 2),
    ("level16", 56, 56, 1),
    ("down32", 56, 64, 2),
    ("level32", 64, 64, 1),
)
"""Name, channels in and out, stride; each a 3 x 3 convolution with a ReLU. Those called level have a head."""


def anchors() -> NDArray[np.float32]:
    """Return the cells: shape (cells, 3): centre x, centre y and stride in pixels, level by level."""
    parts = []
    for stride in STRIDES:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        centre = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride
        parts.append(np.concatenate([centre, np.full((len(centre), 1), stride)], axis=1))
    return np.concatenate(parts).astype(np.float32)


def export(path: Path, weights: Path = WEIGHTS) -> Path:
    """Write the trained detector as an ONNX file, with its labels beside it; return the file's path."""
    from onnx import helper, numpy_helper
    from scenes import LABELS

    with np.load(weights) as archive:
        constants = {name: archive[name].astype(np.float32) for name in archive.files}
    nodes, outputs, last = [], [], "images"
    for name, _, _, stride in LAYERS:
        inputs = [last, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.sum"], pads=[1] * 4, strides=[stride] * 2))
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [name]))
        last = name
        if name.startswith("level"):
            head = name.replace("level", "head")
            nodes.append(helper.make_node("Conv", [name, f"{head}.weight", f"{head}.bias"], [head]))
            nodes.append(helper.make_node("Reshape", [head, "columns"], [f"{head}.flat"]))
            outputs.append(f"{head}.flat")
    nodes += [
        helper.make_node("Concat", outputs, ["raw"], axis=2),
        helper.make_node("Split", ["raw", "parts"], ["first", "second", "logits"], axis=1),
        helper.make_node("Exp", ["first"], ["near"]),  # to the left and top, in strides
        helper.make_node("Exp", ["second"], ["far"]),  # to the right and bottom
        helper.make_node("Sub", ["far", "near"], ["lean"]),
        helper.make_node("Mul", ["lean", "half"], ["shift"]),
        helper.make_node("Mul", ["shift", "stride"], ["moved"]),
        helper.make_node("Add", ["moved", "centre"], ["place"]),
        helper.make_node("Add", ["far", "near"], ["span"]),
        helper.make_node("Mul", ["span", "stride"], ["size"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["place", "size", "scores"], ["output0"], axis=1),
    ]
    cells = anchors()
    constants |= {
        "columns": np.int64([1, 4 + CLASSES, -1]),
        "parts": np.int64([2, 2, CLASSES]),
        "half": np.float32(0.5),
        "centre": cells[None, :, :2].transpose(0, 2, 1).copy(),
        "stride": cells[None, :, 2:].transpose(0, 2, 1).copy(),
    }
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("images", 1, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", 1, [1, 4 + CLASSES, len(cells)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    path.with_name("labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    return path
