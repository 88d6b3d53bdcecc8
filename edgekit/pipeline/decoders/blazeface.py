"""Faces with landmarks from BlazeFace's raw outputs.

Outputs ``regressors`` [1, A, 4 + 2K] (box centre, size and K landmarks, relative to A anchors) and
``classifiers`` [1, A, 1] (logits); or both in parts, ``regressors0``, ``classifiers0``, ... Options:
``anchors``, ``box_scale`` (the input's edge in pixels), ``keypoints``, ``weighted`` (average overlapping
boxes, which steadies them from frame to frame).

Source: V. Bazarevsky et al., "BlazeFace" (2019); MediaPipe ``TensorsToDetectionsCalculator``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, label_of, options_of, shape_of
from edgekit.pipeline.decoders.anchors import AnchorOptions, anchors_of
from edgekit.pipeline.decoders.items import logit, sigmoid
from edgekit.pipeline.decoders.nms import best_first, blend, suppress
from edgekit.pipeline.pre import Placement


class BlazefaceOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a face detector."""

    anchors: AnchorOptions
    box_scale: Annotated[float, msgspec.Meta(gt=0)]
    keypoints: Annotated[int, msgspec.Meta(ge=0, le=64)] = 6
    weighted: bool = False


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
            _face(row, label, float(score), size, outcome.placement)
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


def _face(
    row: NDArray[np.float32], label: str, score: float, size: NDArray[np.float32], placement: Placement | None
) -> Item:
    points = row.reshape(-1, 2)
    if placement is not None:
        points = placement.points_to_source(points * size)
        points[:2] = placement.to_source((row[:4].reshape(2, 2) * size).reshape(1, 4)).reshape(2, 2)
    left, top, right, bottom = points[:2].reshape(-1).tolist()
    return Item(
        label=label,
        score=score,
        index=0,
        box=(left, top, right, bottom),
        points=tuple((x, y) for x, y in points[2:].tolist()),
    )
