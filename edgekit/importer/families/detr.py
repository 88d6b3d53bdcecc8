"""DETRs without postprocessing: class logits [1, Q, C] and boxes [1, Q, 4] as shares of the picture.

Sigmoid or softmax is not in the file: RF-DETR's names ``dets`` and ``labels`` come with its convention, of
the others only the user knows.

Source: exports of rfdetr 1.11.2 and transformers 5.24.0.
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_BOX_NAMES = ("pred_boxes", "boxes", "dets")
_LOGIT_NAMES = ("pred_logits", "logits", "labels")


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with logits and boxes under a DETR's names."""
    boxes, logits = _named(file, _BOX_NAMES), _named(file, _LOGIT_NAMES)
    if file.image() is None or boxes is None or logits is None or "model_family" in file.metadata:
        return None
    count, classes = file.shape_of(logits)[1:]
    if file.shape_of(boxes)[1:] not in ((count, 4), (-1, 4)):
        return None
    is_rf = boxes.name == "dets"
    masks = next((t for t in file.outputs if len(file.shape_of(t)) == 4), None)
    found, asks = labels_of(file, classes)
    why = f"logits of {classes} columns and boxes of {count} queries"
    pixels = convention(
        "RF-DETR: stretched, RGB, ImageNet's mean and std"
        if is_rf
        else "RT-DETR and D-FINE: stretched, RGB, /255",
        resize="stretch",
        color="RGB",
        **(_IMAGENET if is_rf else {"mean": 0, "std": 255}),
    )
    outputs = {"logits": Output(logits.name), "boxes": Output(boxes.name)}
    if masks is not None:
        outputs["masks"] = Output(masks.name)
    if is_rf:
        found = (*found, Finding("activation", "sigmoid", "assumed", "RF-DETR's"))
    else:
        asks = {
            "activation": "sigmoid for RT-DETR, D-FINE and DEIM; softmax and background=last for DETR",
            **asks,
        }
    return Conclusion(
        family="rf-detr" if is_rf else "detr",
        findings=(
            Finding("task", "detect" if masks is None else "instances", "signature", why),
            Finding("decoder", "detr", "signature", why),
            *found,
            *pixels,
            *convention("edgekit's", score_threshold=0.5),
        ),
        outputs=outputs,
        asks=asks,
    )


def _named(file: ModelFile, names: tuple[str, ...]) -> FileTensor | None:
    found = [t for t in file.outputs if t.name in names and len(file.shape_of(t)) == 3]
    return found[0] if len(found) == 1 else None
