"""NanoDet: for each stride one output of classes and one of 4 x 8 distances.

Outputs are matched by shape: their names can be wrong.

Source: RangiLyu/nanodet exports of 2020 to 2022 (BGR, letterbox, mean and std in BGR order).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import cells_of, convention, labels_of
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STRIDES, _PLUS_STRIDES = (8, 16, 32), (8, 16, 32, 64)
_SIDES = 32
_IMAGENET = {"mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395]}
"""ImageNet's in BGR order."""
_LETTERBOX = convention(
    "NanoDet: BGR, letterbox, ImageNet's mean and std in BGR",
    resize="letterbox",
    pad=0,
    color="BGR",
    **_IMAGENET,
    centre="pixel",
)


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for three outputs of classes and three of distances, or NanoDet-Plus's one."""
    if file.image() is None or len(file.inputs) != 1:
        return None
    if len(file.outputs) == 1:
        return _plus(file)
    if len(file.outputs) != 2 * len(_STRIDES):
        return None
    outputs: dict[str, Output] = {}
    widths = set()
    for number, cells in enumerate(cells_of(file, _STRIDES)):
        pair = _pair([t for t in file.outputs if file.shape_of(t)[1:2] == (cells,)], file)
        if pair is None:
            return None
        scores, sides = pair
        outputs |= {f"scores{number}": Output(scores.name), f"boxes{number}": Output(sides.name)}
        widths.add(file.shape_of(scores)[2])
    if len(widths) != 1:
        return None
    classes = widths.pop()
    found, asks = labels_of(file, classes)
    why = f"three outputs of {classes} classes and three of {_SIDES} distances on strides 8, 16, 32"
    return Conclusion(
        family="nanodet",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "bins", "signature", why),
            *found,
            *_LETTERBOX,
            Finding("strides", _STRIDES, "signature", why),
            _activation(_answers(file, [outputs[f"scores{n}"].tensor for n in range(len(_STRIDES))])),
            *convention("NanoDet's demo", score_threshold=0.35, iou_threshold=0.6),
        ),
        outputs=outputs,
        asks=asks,
    )


def _plus(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for rows of classes and distances on strides 8 to 64."""
    (output,) = file.outputs
    shape = file.shape_of(output)
    if len(shape) != 3 or shape[1] != sum(cells_of(file, _PLUS_STRIDES)) or shape[2] <= _SIDES:
        return None
    found, asks = labels_of(file, shape[2] - _SIDES)
    why = f"output {list(shape)}: classes and {_SIDES} distances on strides 8, 16, 32, 64"
    answers = [array[..., :-_SIDES] for array in file.tried.get(output.name, ())]
    return Conclusion(
        family="nanodet-plus",
        findings=(
            Finding("task", "detect", "signature", why),
            Finding("decoder", "bins", "signature", why),
            *found,
            *convention("NanoDet-Plus: BGR, stretched", resize="stretch", color="BGR", **_IMAGENET),
            Finding("centre", "corner", "assumed", "NanoDet-Plus"),
            Finding("strides", _PLUS_STRIDES, "signature", why),
            _activation(answers),
            *convention("NanoDet's demo", score_threshold=0.35, iou_threshold=0.6),
        ),
        outputs={"predictions": Output(output.name)},
        asks=asks,
        no_real_file=True,
    )


def _pair(tensors: list[FileTensor], file: ModelFile) -> tuple[FileTensor, FileTensor] | None:
    """Return the outputs of classes and of distances of one stride."""
    sides = [t for t in tensors if file.shape_of(t)[2:] == (_SIDES,)]
    scores = [t for t in tensors if t not in sides]
    return (scores[0], sides[0]) if len(sides) == len(scores) == 1 else None


def _answers(file: ModelFile, names: list[str]) -> list[NDArray[np.float32]]:
    return [array for name in names for array in file.tried.get(name, ()) if array.size]


def _activation(answers: list[NDArray[np.float32]]) -> Finding:
    """Return whether the scores are logits, by their range in the answers."""
    if not answers:
        return Finding("activation", "none", "assumed", "NanoDet's exports end in sigmoid")
    low, high = min(float(a.min()) for a in answers), max(float(a.max()) for a in answers)
    kind = "none" if low >= 0 and high <= 1.01 else "sigmoid"
    return Finding("activation", kind, "tried", f"the scores are {low:.3g} to {high:.3g}")
