"""Faces, people and palms with a few keypoints from the raw outputs of MediaPipe's detectors.

Outputs ``regressors`` [1, A, 4 + 2K] (box centre, size and K landmarks, relative to A anchors) and
``classifiers`` [1, A, 1] (logits); or both in parts, ``regressors0``, ``classifiers0``, ... Options:
``anchors``, ``box_scale`` (the input's edge in pixels), ``keypoints``, ``weighted`` (average overlapping
boxes, which steadies them from frame to frame), ``region`` (the whole of what the box shows a part of: a
person's body, a palm's hand; reported as ``oriented_box``, which a later stage's crops go by).

Source: V. Bazarevsky et al., "BlazeFace" (2019); MediaPipe ``TensorsToDetectionsCalculator``,
``AlignmentPointsRectsCalculator`` and ``RectTransformationCalculator``.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Box, Item, OrientedBox
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, label_of, options_of, shape_of
from edgekit.pipeline.decoders.anchors import AnchorOptions, anchors_of
from edgekit.pipeline.decoders.items import logit, sigmoid
from edgekit.pipeline.decoders.nms import best_first, blend, suppress
from edgekit.pipeline.pre import Placement

Keypoint = Annotated[int, msgspec.Meta(ge=0, le=63)]


class Region(Options, frozen=True, kw_only=True):
    """A square round keypoint ``foot`` or the box, turned so that ``head`` is above ``foot``.

    Its half edge is ``scale`` times the distance of the two keypoints, or half the box's longer edge; the
    box's centre is moved towards ``head`` by ``shift`` of that edge.
    """

    foot: Keypoint
    head: Keypoint
    scale: Annotated[float, msgspec.Meta(gt=0, le=100)]
    around: Literal["foot", "box"] = "foot"
    shift: Annotated[float, msgspec.Meta(ge=-10, le=10)] = 0.0

    def square(self, box: Box, points: tuple[tuple[float, float], ...]) -> OrientedBox:
        """Return the square in the picture's pixels, its angle from -pi/2 to pi/2.

        >>> Region(foot=0, head=1, scale=2).square((0, 0, 1, 1), ((10, 50), (10, 20)))
        (10, 50, 120.0, 120.0, 0.0)
        """
        (x, y), head = points[self.foot], points[self.head]
        far = math.dist((x, y), head)
        up = ((head[0] - x) / far, (head[1] - y) / far) if far else (0.0, -1.0)
        half = far
        if self.around == "box":
            edge = max(box[2] - box[0], box[3] - box[1])
            half = edge / 2
            x, y = ((box[i] + box[i + 2]) / 2 + self.shift * edge * up[i] for i in (0, 1))
        angle = math.remainder(math.atan2(up[0], -up[1]), math.pi)
        return (x, y, 2 * half * self.scale, 2 * half * self.scale, angle)


class BlazefaceOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of such a detector."""

    anchors: AnchorOptions
    box_scale: Annotated[float, msgspec.Meta(gt=0)]
    keypoints: Annotated[int, msgspec.Meta(ge=0, le=64)] = 6
    weighted: bool = False
    region: Region | None = None

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        if self.region is not None and max(self.region.foot, self.region.head) >= self.keypoints:
            return [
                f"region: want keypoints below {self.keypoints}, got {self.region.foot}, {self.region.head}"
            ]
        return []


def decode_faces(
    raw: NDArray[np.float32], anchors: NDArray[np.float32], box_scale: float
) -> NDArray[np.float32]:
    """Return boxes and landmarks from offsets to anchors.

    Args:
        raw: Shape (n, 4 + 2K): centre x, centre y, width, height, then K times x, y.
        anchors: Shape (n, 4): centre x, centre y, width, height.
        box_scale: Divisor of every column.

    Returns:
        Shape (n, 4 + 2K): left, top, right, bottom, then K times x, y, in the anchors' unit.
    """
    scaled = raw / np.float32(box_scale)
    points = scaled.reshape(len(raw), -1, 2) * anchors[:, None, 2:]
    centre, half = points[:, 0] + anchors[:, :2], points[:, 1] / 2
    landmarks = points[:, 2:] + anchors[:, None, :2]
    return np.concatenate(
        [centre - half, centre + half, landmarks.reshape(len(raw), raw.shape[1] - 4)], axis=1
    ).astype(np.float32)


def build(setup: Setup) -> Decoder:
    """Return a decoder: anchors over the threshold, then suppression or averaging."""
    options = options_of(setup, BlazefaceOptions)
    offsets = _parts(setup, "regressors", 4 + 2 * options.keypoints)
    chances = _parts(setup, "classifiers", 1)
    lengths = [[setup.shapes[name][1] for name in names] for names in (offsets, chances)]
    if lengths[0] != lengths[1]:
        raise BundleError(
            f"{setup.what}: regressors and classifiers have {lengths[0]} and {lengths[1]} anchors"
        )
    anchors = anchors_of(setup, options.anchors, -1 if -1 in lengths[0] else sum(lengths[0]))
    size = np.array(setup.input_size, np.float32)
    label, post, bound = label_of(setup.labels or ("face",), 0), setup.post, logit(setup.post.score_threshold)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        logits = _joined(outcome, chances)[:, 0]
        indices = np.flatnonzero(logits >= bound)
        indices = indices[best_first(logits[indices])]
        if not len(indices):
            return ()
        scores = sigmoid(logits[indices])
        rows = decode_faces(_joined(outcome, offsets)[indices], anchors[indices], options.box_scale)
        kept = suppress(rows[:, :4], scores, np.zeros(len(indices), np.intp), post.iou_threshold)
        faces = blend(rows, scores, kept, post.iou_threshold) if options.weighted else rows[kept]
        return tuple(
            _item(row, label, float(score), size, outcome.placement, options.region)
            for row, score in zip(faces, scores[kept], strict=True)
        )

    return decode


def _parts(setup: Setup, name: str, width: int) -> list[str]:
    """Return the names of an output's parts, or of the whole output.

    Raises:
        BundleError: There is none, or one of another width.
    """
    parts = [f"{name}{number}" for number in range(len(setup.shapes)) if f"{name}{number}" in setup.shapes]
    for part in parts or [name]:
        shape_of(setup, part, (1, -1, width))
    return parts or [name]


def _joined(outcome: Outcome, names: list[str]) -> NDArray[np.float32]:
    """Return an output's rows; a whole one is not copied."""
    whole = outcome.tensors[names[0]][0]
    parts = [whole, *(outcome.tensors[name][0] for name in names[1:])]
    return np.asarray(np.concatenate(parts) if names[1:] else whole)


def _item(
    row: NDArray[np.float32],
    label: str,
    score: float,
    size: NDArray[np.float32],
    placement: Placement | None,
    region: Region | None,
) -> Item:
    points = row.reshape(-1, 2)
    if placement is not None:
        points = placement.points_to_source(points * size)
        points[:2] = placement.to_source((row[:4].reshape(2, 2) * size).reshape(1, 4)).reshape(2, 2)
    left, top, right, bottom = points[:2].reshape(-1).tolist()
    box, keypoints = (left, top, right, bottom), tuple((x, y) for x, y in points[2:].tolist())
    return Item(
        label=label,
        score=score,
        index=0,
        box=box,
        points=keypoints,
        oriented_box=region.square(box, keypoints) if region is not None else None,
    )
