"""Rows of 5 + classes, one a cell of strides 8, 16, 32: YOLOX raw or decoded, and YOLOv6.

The answers say which: raw rows have sizes as logarithms, so some are below 0; YOLOv6's objectness is 1
everywhere.

Source: YOLOX's exports (BGR, 0 to 255, letterbox 114 at the top left); YOLOv6's (no real file seen).
"""

from __future__ import annotations

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

_STRIDES = (8, 16, 32)
_USUAL_WIDTH = 85
"""Box, objectness and COCO's 80 classes: a head without objectness has 84."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output has one row a cell."""
    if file.image() is None or len(file.outputs) != 1 or "task" in file.metadata:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    if len(shape) != 3 or shape[1] != sum(cells_of(file, _STRIDES)) or shape[2] < 6:
        return None
    answers = file.tried.get(output.name, ())
    is_raw = not answers or any(bool((array[..., 2:4] < 0).any()) for array in answers)
    is_v6 = bool(answers) and all(bool((np.abs(array[..., 4] - 1) < 1e-3).all()) for array in answers)
    found, asks = labels_of(file, shape[2] - 5)
    if not is_raw and not is_v6 and shape[2] != _USUAL_WIDTH:
        asks = {**asks, "objectness": "true if the fifth number of a row is no class, as YOLOX has"}
    why = f"output {list(shape)}: one row a cell of strides 8, 16, 32"
    kind = "sizes below 0: logarithms" if is_raw else "sizes above 0: decoded"
    return Conclusion(
        family="yolov6" if is_v6 else "yolox",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo", "signature", why),
            *found,
            *(_V6 if is_v6 else _PIXELS),
            Finding("layout", "rows", "signature", why),
            Finding("objectness", True, "signature", why),
            *((Finding("strides", _STRIDES, "tried" if answers else "assumed", kind),) if is_raw else ()),
            *convention("YOLOX's demo", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={"predictions": Output(output.name)},
        asks=asks,
        no_real_file=is_v6,
    )


_PIXELS = convention(
    "YOLOX: BGR, 0 to 255, letterbox at the top left",
    resize="letterbox",
    align="top-left",
    color="BGR",
    mean=0,
    std=1,
)
_V6 = convention("YOLOv6's letterbox: RGB, /255", resize="letterbox", color="RGB", mean=0, std=255)
