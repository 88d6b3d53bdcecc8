"""UltraFace: decoded boxes [1, N, 4] as shares of the input, and two classes [1, N, 2], background first.

Source: Linzaer's Ultra-Light-Fast-Generic-Face-Detector-1MB: 4,420 priors at 320 x 240, 17,640 at 640 x 480,
(x - 127) / 128, RGB, stretched. No real file seen.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_PRIORS = {(240, 320): 4420, (480, 640): 17640}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with as many boxes and scores as UltraFace has."""
    if file.image() is None or len(file.outputs) != 2:
        return None
    count = _PRIORS.get(image_size(file)[0])
    boxes, scores = (file.output(1, count or 0, width) for width in (4, 2))
    if boxes is None or scores is None:
        return None
    why = f"{count} boxes and two classes: the priors of UltraFace"
    return Conclusion(
        family="ultraface",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "yolo", "signature", why),
            Finding("labels", ("background", "face"), "assumed", "UltraFace's"),
            *convention(
                "UltraFace: RGB, (x - 127) / 128, stretched", resize="stretch", color="RGB", mean=127, std=128
            ),
            *convention("UltraFace's export", box="xyxy", units="shares", background="first"),
            *convention("UltraFace's demo", score_threshold=0.7, iou_threshold=0.3),
        ),
        outputs={"boxes": Output(boxes.name), "scores": Output(scores.name)},
        no_real_file=True,
    )
