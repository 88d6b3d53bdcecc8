"""YOLOv5 and v7 with decoded grids: [1, 3 x cells of strides 8, 16, 32, 5 + classes].

Swift-YOLO by Seeed has the same shape, boxes in pixels and scores to 100: the answers say so.

Source: yolov5 7.0.14 (letterbox 114, RGB, /255; metadata stride and names only); Seeed's SSCMA exports.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, labels_of, largest, units_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

_PERCENT = 1.5
"""A share of 1 may be written as a little more after quantisation; a percentage is far above."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output has three rows a cell."""
    if file.image() is None or len(file.outputs) != 1:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    if len(shape) != 3 or shape[1] != 3 * sum(cells_of(file, (8, 16, 32))) or shape[2] < 6:
        return None
    found, asks = labels_of(file, shape[2] - 5)
    boxes = [array[..., :4] for array in file.tried.get(output.name, ())]
    highest = largest(file, output, slice(4, None))
    scale = 100.0 if highest is not None and highest > _PERCENT else 1.0
    why = f"output {list(shape)}: three anchors a cell of strides 8, 16, 32"
    return Conclusion(
        family="yolov5",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo", "signature", why),
            *found,
            *convention("YOLOv5's letterbox: RGB, /255", resize="letterbox", color="RGB", mean=0, std=255),
            Finding("layout", "rows", "signature", why),
            Finding("objectness", True, "signature", why),
            units_of(boxes, "pixels", "YOLOv5's exports"),
            Finding("score_scale", scale, "tried", f"the highest score is {highest}")
            if highest is not None
            else Finding("score_scale", scale, "assumed", "YOLOv5's exports"),
            *convention("YOLOv5's detect", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={"predictions": Output(output.name)},
        asks=asks,
    )
