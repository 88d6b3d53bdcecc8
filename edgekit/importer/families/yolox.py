"""Rows of 5 + classes, one a cell of strides 8, 16, 32: YOLOX raw or decoded, and YOLOv6.

The answers say which: raw rows have sizes as logarithms, so some are below 0; YOLOv6's objectness is 1
everywhere.

Source: YOLOX's exports (BGR, 0 to 255, letterbox 114 at the top left); YOLOv6's (no real file seen).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import (
    cells_of,
    centres_of,
    convention,
    labels_of,
    order_of,
    scores_of,
    units_of,
)
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIDES = (8, 16, 32)
_FIFTH = {
    "objectness": "true if the fifth number of a row is no class, as in YOLOX; if it is one, --decoder yolov8"
}
_USUAL_WIDTH, _WITHOUT_OBJECTNESS = 85, 84
"""Box, objectness and COCO's 80 classes."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output has one row a cell."""
    if file.image() is None or len(file.outputs) != 1 or "task" in file.metadata:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    if len(shape) != 3 or shape[1] != sum(cells_of(file, _STRIDES)) or shape[2] < 6:
        return None
    if shape[2] == _WITHOUT_OBJECTNESS and not file.asks_for("yolox", "yolov6"):
        return None
    answers = file.tried.get(output.name, ())
    scores = scores_of([array[..., 4:] for array in answers], "YOLOX's exports")
    if scores is None:
        return None
    is_raw = not answers or any(bool((array[..., 2:4] < 0).any()) for array in answers)
    is_v6 = bool(answers) and all(bool((np.abs(array[..., 4] - 1) < 1e-3).all()) for array in answers)
    found, asks = labels_of(file, shape[2] - 5)
    if not is_raw and not is_v6 and shape[2] != _USUAL_WIDTH:
        asks |= _FIFTH
    why = f"output {list(shape)}: one row a cell of strides 8, 16, 32"
    source: Literal["tried", "assumed"] = "tried" if answers else "assumed"
    raw = (Finding("strides", _STRIDES, source, "sizes below 0: logarithms"),)
    return Conclusion(
        family="yolov6" if is_v6 else "yolox",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo", "signature", why),
            *found,
            *(_V6 if is_v6 else _PIXELS),
            Finding("layout", "rows", "signature", why),
            Finding("objectness", True, "signature", why),
            *scores,
            *(raw if is_raw else _decoded(file, [array[..., :4] for array in answers])),
            *convention("YOLOX's demo", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={"predictions": Output(output.name)},
        asks=asks,
        no_real_file=is_v6,
    )


def _decoded(file: ModelFile, boxes: list[NDArray[np.float32]]) -> tuple[Finding, ...]:
    """Return what the numbers of decoded boxes are."""
    units = units_of(boxes, "pixels", "YOLOX's exports")
    order = order_of(boxes, centres_of(file, _STRIDES), units.value == "shares")
    return units, order or Finding("box", "cxcywh", "assumed", "YOLOX's exports")


_PIXELS = convention(
    "YOLOX: BGR, 0 to 255, letterbox at the top left",
    resize="letterbox",
    align="top-left",
    color="BGR",
    mean=0,
    std=1,
)
_V6 = convention("YOLOv6's letterbox: RGB, /255", resize="letterbox", color="RGB", mean=0, std=255)
