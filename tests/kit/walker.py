"""A detector of a person who walks from left to right, by the clock in ``rtsp_server``'s pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper
from onnx_bundles import make_onnx_bundle

PIXELS = (6, 8)
"""Of the model's input: one for each block of the picture."""
STEPS = 15
"""A walk takes 4.096 s: four bits of the clock, in milliseconds, from bit 8 on."""
LABELS = ("person", "face")
# left, top, right, bottom in shares of the picture, where a walk begins; score, class
BODY = (0.0, 0.1, 0.2, 0.9, 0.9, 0)
FACE = (0.06, 0.12, 0.14, 0.3, 0.9, 1)


def make_walker(folder: Path, *, version: str = "1.0.0") -> Path:
    """Write the bundle; return its folder."""
    weights = np.zeros((*PIXELS, 3, 2, 6), np.float32)
    for bit in range(4):  # row 2 of the picture has the clock's bits 15 to 8
        share = 0.8 * 2 ** (3 - bit) / STEPS / 255
        weights[2, 4 + bit, 0, :, (0, 2)] = share
    constants = {
        "weights": weights.reshape(-1, 12),
        "offset": np.array([BODY + FACE], np.float32),
        "flat": np.array([1, -1], np.int64),
        "table": np.array([1, 2, 6], np.int64),
    }
    nodes = [
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))
            for name, array in constants.items()
        ),
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["moved"]),
        helper.make_node("Add", ["moved", "offset"], ["boxes"]),
        helper.make_node("Reshape", ["boxes", "table"], ["rows"]),
    ]
    shape = [1, *PIXELS, 3]
    return make_onnx_bundle(
        folder, nodes, [("image", "UINT8", shape)], [("rows", "FP32", [1, 2, 6])], {},
        model="walker", version=version, task="detect", labels=list(LABELS),
        inputs=[{"name": "image", "datatype": "UINT8", "shape": shape, "layout": "NHWC"}],
        outputs=[{"name": "rows", "datatype": "FP32", "shape": [1, 2, 6]}],
        pre={"resize": "stretch"},
        post={"decoder": "detections", "score_threshold": 0.5, "options": {"units": "shares"}},
        guards={"min_frames": 10},
    )  # fmt: skip
