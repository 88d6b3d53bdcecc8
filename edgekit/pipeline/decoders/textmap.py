"""Where text stands in a picture, from a map of how likely each cell is text.

Output ``map``, one value for each cell ([1, 1, H, W], [1, H, W]). Options: ``cell_threshold`` (a cell of
at least this much is text), ``grow`` (how far a shrunken region is grown back: its area divided by its
perimeter, times this), ``min_side_px`` (of the region in the map), ``activation``.

Source: M. Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (2020),
section 3.3; defaults as PP-OCR's ``DBPostProcess``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item, OrientedBox
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of
from edgekit.pipeline.decoders.items import sigmoid
from edgekit.pipeline.decoders.visible import Visible, flat_map, input_size_of, map_shape, visible
from edgekit.pipeline.pre import vision


class TextmapOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a text detector."""

    cell_threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.3
    grow: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.5
    min_side_px: Annotated[float, msgspec.Meta(ge=0)] = 3.0
    activation: Literal["none", "sigmoid"] = "none"


def build(setup: Setup) -> Decoder:
    """Return a decoder: an item for each line of text, from top to bottom, with an ``oriented_box``.

    ``score`` is the mean of the map inside the region; those below ``score_threshold`` are left out.
    """
    options, size = options_of(setup, TextmapOptions), input_size_of(setup)
    map_shape(setup, "map")

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        values = flat_map(outcome.tensors["map"])
        seen = visible(outcome.placement, size, values.shape)
        values = np.ascontiguousarray(values[seen.rows, seen.columns])
        if options.activation == "sigmoid":
            values = sigmoid(values)
        items = [
            Item(label="text", score=score, index=0, oriented_box=_in_picture(box, seen, values.shape))
            for box, score in regions(values, options)
            if score >= setup.post.score_threshold
        ]
        return tuple(sorted(items, key=lambda item: (item.oriented_box or (0.0, 0.0))[1::-1]))

    return decode


def regions(values: NDArray[np.float32], options: TextmapOptions) -> list[tuple[OrientedBox, float]]:
    """Return the oriented box, in cells and grown back, and the score of each region of a map."""
    cv2 = vision()
    is_text = (values >= options.cell_threshold).astype(np.uint8)
    contours, _ = cv2.findContours(is_text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        (x, y), (width, height), degrees = cv2.minAreaRect(contour)
        if min(width, height) < options.min_side_px:
            continue
        grown = 2 * options.grow * width * height / (2 * (width + height))
        # the contour runs through the centres of its cells, which are half a cell from the edge
        box = (x + 0.5, y + 0.5, width + grown, height + grown, float(np.deg2rad(degrees)))
        found.append((_lying(box), _mean_inside(cv2, values, contour)))
    return found


def _lying(box: OrientedBox) -> OrientedBox:
    """Turn a box so that its width is the longer side: text runs along it."""
    x, y, width, height, angle = box
    return (x, y, width, height, angle) if width >= height else (x, y, height, width, angle - np.pi / 2)


def _mean_inside(cv2: Any, values: NDArray[np.float32], contour: NDArray[np.int32]) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [contour - np.array([left, top], np.int32)], 1)
    return float(values[top : top + height, left : left + width][inside > 0].mean())


def _in_picture(box: OrientedBox, seen: Visible, shape: tuple[int, ...]) -> OrientedBox:
    """Move a box from cells to pixels; a stretched picture changes its angle and sides."""
    left, top, right, bottom = seen.area
    sx, sy = (right - left) / shape[1], (bottom - top) / shape[0]
    x, y, width, height, angle = box
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = np.hypot(cos * sx, sin * sy), np.hypot(sin * sx, cos * sy)
    turned = float(np.arctan(sin * sy / (cos * sx))) if cos else np.pi / 2  # a line has no direction
    return (left + x * sx, top + y * sy, float(width * along), float(height * across), turned)
