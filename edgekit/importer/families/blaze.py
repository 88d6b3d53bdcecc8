"""MediaPipe's detectors of faces, poses and palms: offsets to anchors, and one logit each.

Anchors, input size and number of offsets together name the model. Copies of OpenMV have each of the two
outputs in two parts, in any order: they are joined by length.

Source: MediaPipe's graphs of face_detection_short_range, face_detection_back, face_detection_full_range,
pose_detection and palm_detection, as its npm packages ship them; no real file of 0.7's pose_detection was
seen. A palm's pixels are 0 to 1: fed -1 to 1 it answers with a palm in every picture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_SHORT = {"layers": 4, "strides": (8, 16, 16, 16), "min_scale": 0.1484375, "max_scale": 0.75}
_BACK = {"layers": 4, "strides": (16, 32, 32, 32), "min_scale": 0.15625, "max_scale": 0.75}
_LONG = {"layers": 1, "strides": (4,), "min_scale": 0.1484375, "max_scale": 0.75}
_POSE = {"layers": 5, "strides": (8, 16, 32, 32, 32), "min_scale": 0.1484375, "max_scale": 0.75}
_PALM = {"layers": 4, "strides": (8, 16, 16, 16), "min_scale": 0.1484375, "max_scale": 0.75}
_BODY = {"foot": 0, "head": 1, "scale": 1.25}
_HAND = {"foot": 0, "head": 2, "scale": 2.6, "around": "box", "shift": 0.5}
"""Source: MediaPipe's PoseDetectionToRoi and PalmDetectionDetectionToRoi."""
_ALWAYS = {"aspect_ratios": (1.0,), "fixed_anchor_size": True}


class _Model(NamedTuple):
    """One of MediaPipe's models.

    ``scaled``: its pixels in words, mean and divisor. ``region``: the body or hand of a box.
    """

    label: str
    keypoints: int
    anchors: dict[str, Any]
    scaled: tuple[str, float, float] = ("-1 to 1", 127.5, 127.5)
    region: dict[str, Any] | None = None
    is_seen: bool = True


_MODELS = {
    (896, 128, 16): _Model("face", 6, {**_SHORT, **_ALWAYS}),
    (896, 256, 16): _Model("face", 6, {**_BACK, **_ALWAYS}),
    (2304, 192, 16): _Model("face", 6, {**_LONG, **_ALWAYS, "interpolated_scale_aspect_ratio": 0.0}),
    (2254, 224, 12): _Model("person", 4, {**_POSE, **_ALWAYS}, region=_BODY),
    (896, 128, 12): _Model("person", 4, {**_SHORT, **_ALWAYS}, is_seen=False),
    (2016, 192, 18): _Model("palm", 7, {**_PALM, **_ALWAYS}, ("0 to 1", 0, 255), _HAND),
}
"""By anchors, edge of the input, numbers of an anchor."""
_FAMILY = {"face": "blazeface", "person": "blazepose", "palm": "palm"}


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file whose outputs are as many offsets and logits as one of them has."""
    shapes = {t.name: file.shape_of(t) for t in file.outputs}
    if file.image() is None or any(len(shape) != 3 for shape in shapes.values()):
        return None
    longest_first = sorted(shapes, key=lambda name: -shapes[name][1])
    logits = [name for name in longest_first if shapes[name][2] == 1]
    offsets = [name for name in longest_first if shapes[name][2] != 1]
    if not offsets or [shapes[n][1] for n in offsets] != [shapes[n][1] for n in logits]:
        return None
    count, width = sum(shapes[name][1] for name in offsets), shapes[offsets[0]][2]
    (height, _), _ = image_size(file)
    model = _MODELS.get((count, height, width))
    if model is None:
        return None
    why = f"{count} anchors at {height}, {width} numbers each"
    outputs: dict[str, Output] = {}
    for name, parts in (("regressors", offsets), ("classifiers", logits)):
        is_whole = len(parts) == 1
        outputs |= {name if is_whole else f"{name}{i}": Output(part) for i, part in enumerate(parts)}
    return Conclusion(
        family=_FAMILY[model.label],
        findings=(
            Finding("task", "face" if model.label == "face" else "pose", "signature", why),
            Finding("decoder", "blazeface", "signature", why),
            Finding("labels", (model.label,), "assumed", "MediaPipe's"),
            *_pixels(model),
            Finding("anchors", model.anchors, "signature", why),
            Finding("box_scale", height, "signature", "offsets are pixels of the input"),
            Finding("keypoints", model.keypoints, "signature", why),
            *_region(model),
            *convention("MediaPipe's graph", score_threshold=0.5, iou_threshold=0.3),
        ),
        outputs=outputs,
        no_real_file=not model.is_seen,
    )


def _pixels(model: _Model) -> tuple[Finding, ...]:
    scaled, mean, std = model.scaled
    why = f"MediaPipe: letterbox with black, RGB, {scaled}"
    return convention(why, resize="letterbox", pad=0, color="RGB", mean=mean, std=std)


def _region(model: _Model) -> tuple[Finding, ...]:
    return convention("MediaPipe's graph", region=model.region) if model.region else ()
