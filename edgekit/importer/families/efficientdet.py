"""EfficientDet's raw outputs: for each level of its pyramid a map of classes, then one of boxes.

Source: exports of effdet 0.4.1 (mean and std 0.5, padded at the bottom and right).
"""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_LEVELS, _EACH = 5, 9


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with five such pairs, nine anchors a cell."""
    if file.image() is None or len(file.outputs) != 2 * _LEVELS:
        return None
    boxes = [t for t in file.outputs if _channels(file, t) == 4 * _EACH]
    scores = [t for t in file.outputs if t not in boxes]
    if len(boxes) != _LEVELS:  # four classes: both are alike, and the classes come first
        scores, boxes = list(file.outputs[:_LEVELS]), list(file.outputs[_LEVELS:])
    classes = {_channels(file, t) for t in scores}
    pairs = list(zip(_by_size(file, scores), _by_size(file, boxes), strict=True))
    if len(classes) != 1 or any(file.shape_of(a)[2:] != file.shape_of(b)[2:] for a, b in pairs):
        return None
    width = classes.pop()
    if width < _EACH or width % _EACH or len({file.shape_of(a)[2:] for a, _ in pairs}) != _LEVELS:
        return None
    found, asks = labels_of(file, width // _EACH)
    why = f"{_LEVELS} maps of {width // _EACH} classes and {_LEVELS} of boxes, {_EACH} anchors a cell"
    outputs: dict[str, Output] = {}
    for number, (score, box) in enumerate(pairs):
        outputs |= {f"scores{number}": Output(score.name), f"boxes{number}": Output(box.name)}
    return Conclusion(
        family="efficientdet",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "efficientdet", "signature", why),
            *found,
            *convention(
                "effdet: the longer side fits, padded at the bottom and right, RGB, -1 to 1",
                resize="letterbox",
                align="top-left",
                pad=116,
                color="RGB",
                mean=127.5,
                std=127.5,
            ),
            *convention("effdet's", score_threshold=0.3, iou_threshold=0.5),
        ),
        outputs=outputs,
        asks={"anchor_scale": "3 for the lite models, 4 for the others; not in the file", **asks},
    )


def _channels(file: ModelFile, tensor: FileTensor) -> int:
    shape = file.shape_of(tensor)
    return shape[1] if len(shape) == 4 else 0


def _by_size(file: ModelFile, tensors: list[FileTensor]) -> list[FileTensor]:
    """Return tensors with the finest level first."""
    return sorted(tensors, key=lambda tensor: -file.shape_of(tensor)[-1])
