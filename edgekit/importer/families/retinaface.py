"""RetinaFace heads: outputs of boxes [1, A, 4], two classes [1, A, 2] and landmarks [1, A, 2K].

Source: biubug6/Pytorch_Retinaface (BGR, letterbox or stretched, mean 104 117 123, softmax in the export).
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile

_CONVENTION = convention(
    "RetinaFace: BGR, letterbox with black, mean 104 117 123, softmax inside",
    resize="letterbox",
    pad=0,
    color="BGR",
    mean=[104, 117, 123],
    std=1,
    strides=(8, 16, 32),
    box_order="xywh",
    activation="none",
    variances=(0.1, 0.2),
)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with three such outputs of one length."""
    if file.image() is None or len(file.outputs) != 3:
        return None
    by_width = {file.shape_of(t)[-1]: t for t in file.outputs if len(file.shape_of(t)) == 3}
    points = [width for width in by_width if width not in (2, 4) and width > 4 and width % 2 == 0]
    if len(by_width) != 3 or not points or {2, 4} - by_width.keys():
        return None
    lengths = {file.shape_of(t)[1] for t in file.outputs} - {-1}
    if len(lengths) > 1:
        return None
    count, landmarks = max(lengths, default=-1), points[0] // 2
    why = f"boxes, two classes and {landmarks} landmarks of {count} priors"
    return Conclusion(
        family="retinaface",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "ssd", "signature", why),
            *_CONVENTION,
            Finding("landmarks", landmarks, "signature", why),
            *convention("edgekit's", score_threshold=0.5, iou_threshold=0.4),
        ),
        outputs={
            "boxes": Output(by_width[4].name, (1, count, 4)),
            "scores": Output(by_width[2].name, (1, count, 2)),
            "landmarks": Output(by_width[points[0]].name, (1, count, 2 * landmarks)),
        },
        asks={
            "labels": "one class beside the background, and the file has no name for it",
            "min_sizes": "for each stride the edges of its priors in pixels, not in the file",
        },
    )
