"""Yolo-FastestV2: one table [cells of strides 16 and 32, 5 x 3 + classes] without a batch.

Source: dog-qiuqiu/Yolo-FastestV2 exports (stretched, BGR, /255); the anchors are in its .data files only.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

_STRIDES = (16, 32)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with that one table."""
    if file.image() is None or len(file.outputs) != 1:
        return None
    output = file.outputs[0]
    shape = file.shape_of(output)
    if len(shape) != 2 or shape[0] != sum(cells_of(file, _STRIDES)) or shape[1] < 16:
        return None
    found, asks = labels_of(file, shape[1] - 15)
    why = f"output {list(shape)}: a row a cell of strides 16 and 32, three anchors that share their classes"
    return Conclusion(
        family="yolo-fastestv2",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo-grid", "signature", why),
            *found,
            *convention(
                "Yolo-FastestV2: stretched, BGR, /255", resize="stretch", color="BGR", mean=0, std=255
            ),
            Finding("head", "fastestv2", "signature", why),
            Finding("strides", _STRIDES, "signature", why),
            Finding("activation", "none", "assumed", "its exports end in sigmoid and softmax"),
            *convention("edgekit's", score_threshold=0.25, iou_threshold=0.45),
        ),
        outputs={"predictions": Output(output.name)},
        asks={"anchors": "for each stride width and height in pixels by turns, not in the file", **asks},
    )
