"""MoveNet and PoseNet: keypoints of people.

Source: MoveNet's cards (Google, 2021) and PoseNet's published graph; no real file of either decoded here.
"""

from __future__ import annotations

from typing import Literal

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.families.ultralytics import COCO_POINTS
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile

_POINTS = len(COCO_POINTS)
_NAMES = Finding("point_names", COCO_POINTS, "assumed", "17 keypoints are COCO's person")
_PERSON = Finding("labels", ("person",), "assumed", "17 keypoints are COCO's person")


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with MoveNet's output or PoseNet's four maps."""
    if file.image() is None:
        return None
    return _movenet(file) if len(file.outputs) == 1 else _posenet(file)


def _movenet(file: ModelFile) -> Conclusion | None:
    shape = file.shape_of(file.outputs[0])
    if shape[-2:] != (_POINTS, 3) and not (len(shape) == 3 and shape[2] == 3 * _POINTS + 5 and shape[1] < 32):
        return None
    why = f"output {list(shape)}: y, x and score of {_POINTS} points"
    return Conclusion(
        family="movenet",
        findings=(
            Finding("task", "pose", "signature", why),
            Finding("decoder", "movenet", "signature", why),
            _PERSON,
            *convention(
                "MoveNet: RGB, 0 to 255, letterbox with black",
                resize="letterbox",
                pad=0,
                color="RGB",
                mean=0,
                std=1,
            ),
            Finding("keypoints", _POINTS, "signature", why),
            _NAMES,
            *convention("MoveNet's demo", score_threshold=0.2),
        ),
        outputs={"people": Output(file.outputs[0].name)},
        no_real_file=True,
    )


def _posenet(file: ModelFile) -> Conclusion | None:
    maps = _maps(file)
    if maps is None:
        return None
    answers = file.tried.get(maps["heatmaps"].tensor, ())
    is_logit = not answers or any(float(array.min(initial=0)) < 0 for array in answers)
    why = f"maps of {_POINTS} points, their offsets and displacements both ways"
    source: Literal["tried", "assumed"] = "tried" if answers else "assumed"
    return Conclusion(
        family="posenet",
        findings=(
            Finding("task", "pose", "signature", why),
            Finding("decoder", "posenet", "signature", why),
            _PERSON,
            *convention(
                "PoseNet: RGB, -1 to 1, stretched", resize="stretch", color="RGB", mean=127.5, std=127.5
            ),
            Finding("activation", "sigmoid" if is_logit else "none", source, "its values"),
            _NAMES,
            *convention("PoseNet's demo", score_threshold=0.3),
        ),
        outputs=maps,
        no_real_file=True,
    )


def _maps(file: ModelFile) -> dict[str, Output] | None:
    """Return PoseNet's four maps by logical name; which way a displacement goes only its name says."""
    by_width: dict[int, list[FileTensor]] = {}
    for tensor in file.outputs:
        shape = file.shape_of(tensor)
        by_width.setdefault(shape[3] if len(shape) == 4 else 0, []).append(tensor)
    widths = {_POINTS: 1, 2 * _POINTS: 1, 2 * (_POINTS - 1): 2}
    if {width: len(tensors) for width, tensors in by_width.items()} != widths:
        return None
    moves = by_width[2 * (_POINTS - 1)]
    ahead = [t for t in moves if "fwd" in t.name.lower() or "forward" in t.name.lower()]
    if len(ahead) != 1:
        return None
    back = next(t for t in moves if t is not ahead[0])
    tensors = (by_width[_POINTS][0], by_width[2 * _POINTS][0], ahead[0], back)
    names = ("heatmaps", "offsets", "forward", "backward")
    return {name: Output(tensor.name) for name, tensor in zip(names, tensors, strict=True)}
