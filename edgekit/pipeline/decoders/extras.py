"""Columns after a detection's classes: keypoints, a box's angle, or the coefficients of its mask."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Mask
from edgekit.pipeline.decoders import Outcome, Setup, shape_of
from edgekit.pipeline.decoders.items import DetectOptions, Extras, size_of
from edgekit.pipeline.masks import to_mask
from edgekit.pipeline.pre import Placement, vision

Floats = NDArray[np.float32]


class ExtraOptions(DetectOptions, frozen=True, kw_only=True):
    """Which columns follow the classes.

    ``keypoints``: how many; each is x, y and with ``point_size`` 3 its score. ``point_names``: theirs.
    ``angle``: one, in radians. ``masks``: how many coefficients of the output ``prototypes``, which is
    [1, masks, h, w], or with ``prototype_layout`` NHWC [1, h, w, masks].
    """

    keypoints: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    point_size: Literal[2, 3] = 3
    point_names: tuple[str, ...] = ()
    angle: bool = False
    masks: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    prototype_layout: Literal["NCHW", "NHWC"] = "NCHW"

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        found = []
        if (self.keypoints > 0) + self.angle + (self.masks > 0) > 1:
            found.append("keypoints: want only one of keypoints, angle and masks")
        if self.point_names and len(self.point_names) != self.keypoints:
            found.append(f"point_names: want {self.keypoints} names, got {len(self.point_names)}")
        return found

    def width(self) -> int:
        """Return the number of columns."""
        return self.keypoints * self.point_size + int(self.angle) + self.masks


class ExtraReader:
    """Reads the columns after the classes of the items that were kept.

    Raises:
        BundleError: Masks are declared, and the prototypes are missing or of another shape.
    """

    def __init__(self, setup: Setup, options: ExtraOptions, unit: Floats) -> None:
        self._options, self._unit, self._size = options, unit, size_of(setup)
        if options.masks:
            is_last = options.prototype_layout == "NHWC"
            shape_of(
                setup, "prototypes", (1, -1, -1, options.masks) if is_last else (1, options.masks, -1, -1)
            )
        elif "prototypes" in setup.shapes:
            raise BundleError(f"{setup.what}: output 'prototypes' is of no use without post.options.masks")

    def read(self, columns: Floats, boxes: Floats, outcome: Outcome) -> Extras | None:
        """Return the points or masks of kept rows.

        Args:
            columns: Shape (n, width): what follows the classes.
            boxes: Shape (n, 4): left, top, right, bottom in pixels of the input.
            outcome: The inference, for its prototypes and its picture's position.
        """
        options = self._options
        if options.keypoints:
            points = columns.reshape(len(columns), options.keypoints, options.point_size)
            scores = points[:, :, 2] if options.point_size == 3 else None
            return Extras(points[:, :, :2] * self._unit, scores, options.point_names)
        if options.masks:
            prototypes = outcome.tensors["prototypes"][0]
            if options.prototype_layout == "NHWC":
                prototypes = prototypes.transpose(2, 0, 1)
            maps = np.tensordot(columns, prototypes, 1)
            masks, is_seen = masks_of(maps, boxes, self._size, outcome.placement)
            return Extras(masks=masks, is_seen=is_seen)
        return None


def masks_of(
    maps: Floats, boxes: Floats, size: Floats, placement: Placement | None
) -> tuple[list[Mask | None], list[bool]]:
    """Return each item's mask inside its box, where its map, scaled to the input, is above 0.

    An item whose mask covers only the border of a letterbox has none. The second list says whether the
    map is above 0 anywhere inside the box: the exporters drop an item where it is not.

    Args:
        maps: Shape (n, h, w), logits over the whole input.
        boxes: Shape (n, 4): left, top, right, bottom in pixels of the input.
        size: Width and height of the input.
        placement: The position of the picture in the input.

    Source: the YOLO exporters' ``process_mask``.
    """
    edges = np.ceil(np.clip(boxes.reshape(-1, 2, 2), 0, size)).astype(np.int64).reshape(-1, 4)
    masks: list[Mask | None] = []
    is_seen = []
    for cells, (left, top, right, bottom) in zip(maps, edges.tolist(), strict=True):
        covered = np.zeros((int(size[1]), int(size[0])), bool)
        if right > left and bottom > top:
            scaled = vision().resize(cells, (int(size[0]), int(size[1])))
            covered[top:bottom, left:right] = scaled[top:bottom, left:right] > 0
        is_seen.append(bool(covered.any()))
        masks.append(_mask(covered, (left, top, right, bottom), placement))
    return masks, is_seen


def _mask(
    covered: NDArray[np.bool_], edges: tuple[int, int, int, int], placement: Placement | None
) -> Mask | None:
    left, top, right, bottom = edges
    if placement is not None:  # a letterbox's border is no part of the picture
        shown_w, shown_h = placement.width * placement.scale_x, placement.height * placement.scale_y
        left, top = max(left, round(placement.left)), max(top, round(placement.top))
        right = min(right, round(placement.left + shown_w))
        bottom = min(bottom, round(placement.top + shown_h))
    cells = covered[top:bottom, left:right]
    if not cells.any():
        return None
    area = np.array([[left, top, right, bottom]], np.float32)
    if placement is not None:
        area = placement.to_source(area)
    x0, y0, x1, y1 = area[0].tolist()
    return to_mask(cells, (x0, y0, x1, y1))
