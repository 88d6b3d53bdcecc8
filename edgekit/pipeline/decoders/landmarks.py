"""The landmarks of one thing that fills the picture: MediaPipe's networks of body, hand, face and eye.

Output ``landmarks``, K * ``numbers`` values (x, y, z, with five also visibility and presence as logits), or
in parts ``landmarks0``, ``landmarks1``, ... (an eye's contour, its iris), and
maybe ``flag``, one value: whether the thing is there. Options: ``points`` (how many to report, the first),
``numbers`` of each, ``units``, ``point_names``, ``activation`` of the flag. These networks see a crop of what
a detector found: run them as a second stage on its items. MediaPipe turns the crop upright first; here it
is as it stands.

Source: MediaPipe's graphs ``pose_landmarks``, ``hand_landmark``, ``face_landmark`` and ``iris_landmark``, and
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
    parts = _parts(setup, options)
    finish = Finish(setup, options, 1)
    unit = finish.unit(options.units)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        score = np.ones(1, np.float32)
        if (flag := outcome.tensors.get("flag")) is not None:
            score = flag.reshape(-1)[:1]
            score = sigmoid(score) if options.activation == "sigmoid" else score
        if score[0] < finish.bound:
            return ()
        rows = [bounded(outcome.tensors[part]).reshape(-1, options.numbers) for part in parts]
        table = np.concatenate(rows)[: options.points]
        points = (table[:, :2] * unit)[None]
        box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        sure = sigmoid(table[None, :, _VISIBILITY]) if options.numbers > _VISIBILITY else None
        extras = Extras(points, sure, options.point_names)
        return finish.items(box, score, np.zeros(1, np.intp), outcome.placement, extras)

    return decode


def _parts(setup: Setup, options: LandmarkOptions) -> list[str]:
    """Return the names of the outputs whose rows are the landmarks, one after the other.

    Raises:
        BundleError: They hold fewer points than are asked for, or parts of one.
    """
    numbered = [f"landmarks{number}" for number in range(len(setup.shapes))]
    parts = [name for name in numbered if name in setup.shapes] or ["landmarks"]
    shapes = [setup.shapes.get(name, ()) for name in parts]
    sizes = [int(np.prod(shape)) if shape and min(shape) > 0 else 0 for shape in shapes]
    if any(size % options.numbers for size in sizes) or sum(sizes) < options.points * options.numbers:
        raise BundleError(
            f"{setup.what}: output {', '.join(map(repr, parts))}: want at least {options.points} points of "
            f"{options.numbers} numbers, got shape {', '.join(str(list(shape)) for shape in shapes)}"
        )
    return parts
