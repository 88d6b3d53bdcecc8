"""People's keypoints from MoveNet.

Output ``people``, single pose [1, 1, K, 3] (y, x and score of each point, as shares of the input), or several
[1, M, 3K + 5] (the points, then top, left, bottom, right and the score of each person). A single pose's score
is the mean of its points' scores; its box goes round the points with at least ``point_threshold``.

``moving_crop`` (false) looks at the part of the next picture where the person was: for one person before one
camera, not for pictures without an order.

No real file seen: made from the models' cards (Google, "MoveNet.SinglePose", "MoveNet.MultiPose", 2021).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of
from edgekit.pipeline.decoders.items import DetectOptions, Extras, Finish, Share, bounded, to_corners

Floats = NDArray[np.float32]
_BOX = 5


class MovenetOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of a MoveNet; see the module."""

    keypoints: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 17
    point_names: tuple[str, ...] = ()
    point_threshold: Share = 0.2
    moving_crop: bool = False

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        if self.moving_crop and not {"left hip", "left shoulder"} <= set(self.point_names):
            return ["moving_crop: want point_names with hips and shoulders"]
        return []


def build(setup: Setup) -> Decoder:
    """Return a decoder: each person over the threshold, best first."""
    options = options_of(setup, MovenetOptions)
    shape = setup.shapes.get("people", ())
    count = options.keypoints
    is_single = shape[-2:] == (count, 3)
    if not is_single and not (len(shape) == 3 and shape[-1] == 3 * count + _BOX):
        raise BundleError(
            f"{setup.what}: output 'people': want [1, 1, {count}, 3] or [1, M, {3 * count + _BOX}], "
            f"got {list(shape)}"
        )
    finish = Finish(setup, options, 1)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        tensor = bounded(outcome.tensors["people"])
        points = (tensor if is_single else tensor[0, :, : 3 * count]).reshape(-1, count, 3)
        if is_single:
            scores, boxes = points[:, :, 2].mean(axis=1), _extents(points, options.point_threshold)
        else:
            scores, boxes = tensor[0, :, -1], to_corners(tensor[0, :, -_BOX:-1], "yxyx")
        people = np.flatnonzero(scores >= finish.bound)
        boxes = boxes[people] * np.tile(finish.size, 2)
        kept = finish.keep(boxes, scores[people], np.zeros(len(people), np.intp))
        chosen = points[people[kept]]
        extras = Extras(chosen[:, :, 1::-1] * finish.size, chosen[:, :, 2], options.point_names)
        return finish.items(
            boxes[kept], scores[people[kept]], np.zeros(len(kept), np.intp), outcome.placement, extras
        )

    return decode


def _extents(points: Floats, least: float) -> Floats:
    """Return the box round each person's points that are sure enough, (n, 4): left, top, right, bottom."""
    is_sure = points[:, :, 2] >= least
    is_sure |= ~is_sure.any(axis=1, keepdims=True)  # of nobody's points: round all
    places = points[:, :, 1::-1]
    low = np.where(is_sure[:, :, None], places, np.inf).min(axis=1)
    high = np.where(is_sure[:, :, None], places, -np.inf).max(axis=1)
    return np.concatenate([low, high], axis=1).astype(np.float32)
