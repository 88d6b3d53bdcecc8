"""MediaPipe's networks of landmarks: body (BlazePose), hand, face and eye.

The input's edge and the numbers of an output name the network.

Source: MediaPipe's pose_landmark, hand_landmark, face_landmark and iris_landmark models and their cards, and
face_landmarks_detector of its Face Landmarker (no real file of this one seen).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edgekit.core.spec import Finding
from edgekit.importer.families.boxes import convention
from edgekit.importer.findings import Conclusion, Output
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

BODY_POINTS = (
    *("nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye"),
    *("right eye outer", "left ear", "right ear", "mouth left", "mouth right", "left shoulder"),
    *("right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "left pinky"),
    *("right pinky", "left index", "right index", "left thumb", "right thumb", "left hip", "right hip"),
    *("left knee", "right knee", "left ankle", "right ankle", "left heel", "right heel"),
    *("left foot index", "right foot index"),
)
"""Source: MediaPipe's pose landmark model."""
EYE_POINTS = (
    *(f"lower lid {number}" for number in range(9)),
    *(f"upper lid {number}" for number in range(7)),
    *(f"round the eye {number}" for number in range(55)),
    *("iris", "iris left", "iris top", "iris right", "iris bottom"),
)
"""The contour of an eye with its brow, then the iris. Source: MediaPipe's iris landmark model."""


class _Network(NamedTuple):
    """One of MediaPipe's models; ``more``: the numbers of the output that has the rest of the landmarks."""

    family: str
    label: str
    points: int
    numbers: int
    names: tuple[str, ...] = ()
    more: int = 0
    is_seen: bool = True


_NETWORKS = {
    (256, 195): _Network("blazepose-landmarks", "person", 33, 5, BODY_POINTS),
    (224, 63): _Network("hand-landmarks", "hand", 21, 3),
    (192, 1404): _Network("face-landmarks", "face", 468, 3),
    (256, 1434): _Network("face-landmarks", "face", 478, 3, is_seen=False),
    (64, 213): _Network("iris-landmarks", "eye", 76, 3, EYE_POINTS, more=15),
}
"""By the input's edge and the numbers of the landmarks; a body's last six points are none of its own."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with the landmarks of one of these networks."""
    if file.image() is None or len(file.inputs) != 1:
        return None
    (height, width), _ = image_size(file)
    sizes = {t.name: math.prod(file.shape_of(t)) for t in file.outputs}
    known = [t for t in file.outputs if height == width and (height, sizes[t.name]) in _NETWORKS]
    if not known:
        return None
    output = max(known, key=lambda tensor: _reach(file, tensor))  # a hand's second ones are metres
    network = _NETWORKS[(height, sizes[output.name])]
    rest = [t.name for t in file.outputs if network.more and sizes[t.name] == network.more]
    if network.more and len(rest) != 1:
        return None
    flags = [t for t in file.outputs if sizes[t.name] == 1]
    why = f"output {output.name!r}: {sizes[output.name]} numbers at {height} pixels"
    parts = [output.name, *rest]
    names = [f"landmarks{number}" for number in range(len(parts))] if rest else ["landmarks"]
    outputs = {n: Output(part, (1, sizes[part])) for n, part in zip(names, parts, strict=True)}
    if flags:
        outputs["flag"] = Output(flags[0].name, (1, 1))
    return Conclusion(
        family=network.family,
        findings=(
            Finding("task", "pose", "signature", why),
            Finding("decoder", "landmarks", "signature", why),
            Finding("labels", (network.label,), "assumed", "MediaPipe's"),
            *convention("MediaPipe: RGB, 0 to 1", resize="letterbox", pad=0, color="RGB", mean=0, std=255),
            Finding("points", network.points, "signature", why),
            Finding("numbers", network.numbers, "signature", why),
            *([Finding("point_names", network.names, "assumed", "MediaPipe's")] if network.names else []),
            *([_activation(file, flags[0])] if flags else []),
            *convention("MediaPipe's graph", score_threshold=0.5),
        ),
        outputs=outputs,
        no_real_file=not network.is_seen,
    )


def _reach(file: ModelFile, tensor: FileTensor) -> float:
    return max((float(np.abs(array).max()) for array in file.tried.get(tensor.name, ())), default=0.0)


def _activation(file: ModelFile, flag: FileTensor) -> Finding:
    """Return whether the flag is a logit: only such is below 0 or above 1."""
    answers = [float(array.reshape(-1)[0]) for array in file.tried.get(flag.name, ())]
    if not answers:
        return Finding("activation", "none", "assumed", "MediaPipe's body and hand")
    is_logit = min(answers) < 0 or max(answers) > 1
    return Finding("activation", "sigmoid" if is_logit else "none", "tried", f"the flag is {answers[0]:.3g}")
