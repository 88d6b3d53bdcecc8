"""YOLOv5 and v7 with decoded grids: [1, 3 x cells of strides 8, 16, 32, 5 + classes].

Swift-YOLO by Seeed has the same shape, boxes in pixels and scores to 100: the answers say so.

Source: yolov5 7.0.14 (letterbox 114, RGB, /255; metadata stride and names only); Seeed's SSCMA exports.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, labels_of, scores_of, units_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

_COARSEST = 0.03
"""The largest step of a quantised probability; a file with a larger one holds percentages."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose only output has three rows a cell."""
    if file.image() is None or len(file.outputs) != 1:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    if len(shape) != 3 or shape[1] != 3 * sum(cells_of(file, (8, 16, 32))) or shape[2] < 6:
        return None
    answers = file.tried.get(output.name, ())
    scores = scores_of([array[..., 4:] for array in answers], "YOLOv5's exports")
    if scores is None or scores[0].value == "sigmoid":  # logits: its boxes are not decoded either
        return None
    if scores[0].key == "activation":
        scores = (Finding("score_scale", 1.0, scores[0].source, scores[0].why),)
    step = output.quantization.scale if output.quantization else 0.0
    if step > _COARSEST:
        scores = (Finding("score_scale", 100.0, "signature", f"its output counts in steps of {step:.3g}"),)
    found, asks = labels_of(file, shape[2] - 5)
    boxes = [array[..., :4] for array in answers]
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
            *scores,
            *convention("YOLOv5's detect", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={"predictions": Output(output.name)},
        asks=asks,
    )
