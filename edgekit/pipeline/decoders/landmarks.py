"""The landmarks of one thing that fills the picture: MediaPipe's networks of body, hand and face.

Output ``landmarks``, K * ``numbers`` values (x, y, z, with five also visibility and presence as logits), and
maybe ``flag``, one value: whether the thing is there. Options: ``points`` (how many to report, the first),
``numbers`` of each, ``units``, ``point_names``, ``activation`` of the flag. These networks see a crop of what
a detector found: run them as a second stage on its items. MediaPipe turns the crop upright first; here it
is as it stands.

Source: MediaPipe's graphs ``pose_landmarks``, ``hand_landmark`` and ``face_landmark``, and
``TensorsToLandmarksCalculator``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of
from edgekit.pipeline.decoders.items import DetectOptions, Extras, Finish, Units, bounded, sigmoid

_VISIBILITY = 3


class LandmarkOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of such a network; see the module."""

    points: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    numbers: Annotated[int, msgspec.Meta(ge=2, le=5)] = 3
    units: Units = "pixels"
    point_names: tuple[str, ...] = ()
    activation: Literal["none", "sigmoid"] = "none"

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        if self.point_names and len(self.point_names) != self.points:
            return [f"point_names: want {self.points} names, got {len(self.point_names)}"]
        return []


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item, its box round its points, if the flag reaches ``score_threshold``."""
    options = options_of(setup, LandmarkOptions)
    shape = setup.shapes.get("landmarks", ())
    size = int(np.prod(shape)) if shape and min(shape) > 0 else 0
    if size % options.numbers or size < options.points * options.numbers:
        raise BundleError(
            f"{setup.what}: output 'landmarks': want at least {options.points} points of {options.numbers} "
            f"numbers, got shape {list(shape)}"
        )
    finish = Finish(setup, options, 1)
    unit = finish.unit(options.units)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        score = np.ones(1, np.float32)
        if (flag := outcome.tensors.get("flag")) is not None:
            score = flag.reshape(-1)[:1]
            score = sigmoid(score) if options.activation == "sigmoid" else score
        if score[0] < finish.bound:
            return ()
        table = bounded(outcome.tensors["landmarks"]).reshape(-1, options.numbers)[: options.points]
        points = (table[:, :2] * unit)[None]
        box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        sure = sigmoid(table[None, :, _VISIBILITY]) if options.numbers > _VISIBILITY else None
        extras = Extras(points, sure, options.point_names)
        return finish.items(box, score, np.zeros(1, np.intp), outcome.placement, extras)

    return decode
