"""Cuts crops and tiles out of a frame, and moves what was found in them to where it is in the frame."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Box, Item
from edgekit.pipeline.decoders.nms import overlap
from edgekit.pipeline.redact import pixel_box

Pixels = NDArray[np.uint8]
Area = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels."""


def crop_areas(
    items: Sequence[Item], width: int, height: int, *, margin: float, min_side_px: int
) -> list[tuple[int, Area]]:
    """Return the index of each item that has a place, with the area to cut out, the surest first."""
    order = sorted(range(len(items)), key=lambda index: -(items[index].score or 0.0))
    found = []
    for index in order:
        if (box := items[index].extent()) is None:
            continue
        left, top, right, bottom = area = pixel_box(box, width, height, margin)
        if min(right - left, bottom - top) >= min_side_px:
            found.append((index, area))
    return found


def cut(pixels: Pixels, area: Area) -> Pixels:
    """Return a copy of an area."""
    left, top, right, bottom = area
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def tile_areas(width: int, height: int, tiles: tuple[int, int], share: float) -> list[Area]:
    """Return the areas of tiles that cover a picture, row by row; neighbours share ``share`` of their side.

    >>> tile_areas(100, 50, (2, 1), 0.5)
    [(0, 0, 67, 50), (33, 0, 100, 50)]
    """
    xs, ys = (_spans(side, count, share) for side, count in ((width, tiles[0]), (height, tiles[1])))
    return [(left, top, right, bottom) for top, bottom in ys for left, right in xs]


def _spans(side: int, count: int, share: float) -> list[tuple[int, int]]:
    length = side / (count - share * (count - 1))
    starts = [index * length * (1 - share) for index in range(count)]
    return [(round(start), min(side, round(start + length))) for start in starts]


def moved(item: Item, left: float, top: float) -> Item:
    """Return an item of a crop with its places in the frame that the crop was cut from."""
    changes: dict[str, object] = {}
    if item.box is not None:
        changes["box"] = _moved_box(item.box, left, top)
    if item.oriented_box is not None:
        x, y, width, height, angle = item.oriented_box
        changes["oriented_box"] = (x + left, y + top, width, height, angle)
    if item.points:
        changes["points"] = tuple((x + left, y + top) for x, y in item.points)
    if item.mask is not None:
        changes["mask"] = msgspec.structs.replace(item.mask, area=_moved_box(item.mask.area, left, top))
    return msgspec.structs.replace(item, **changes) if changes else item


def _moved_box(box: Box, left: float, top: float) -> Box:
    return (box[0] + left, box[1] + top, box[2] + left, box[3] + top)


EDGE_PX = 2.0
"""A box that ends within this of its tile's edge may be cut off there."""


def joined(
    found: Sequence[tuple[Area, Sequence[Item]]], width: int, height: int, iou_threshold: float
) -> list[Item]:
    """Return the items of overlapping tiles, each object once, surest first.

    Of items of one label that overlap by more than ``iou_threshold``, and of one that a tile's edge cut off
    inside another, the whole one is kept, else the surer. Items without a box are all kept.
    """
    rows = [
        (_is_cut(item, area, width, height), moved(item, area[0], area[1]))
        for area, items in found
        for item in items
    ]
    rows.sort(key=lambda row: (row[0], -(row[1].score or 0.0)))
    kept: list[Item] = []
    for is_cut, item in rows:
        others = [other.box for other in kept if other.label == item.label and other.box is not None]
        if item.box is None or not others or not _is_covered(item.box, others, iou_threshold, is_cut=is_cut):
            kept.append(item)
    return sorted(kept, key=lambda item: -(item.score or 0.0))


def _is_covered(box: Box, others: Sequence[Box], iou_threshold: float, *, is_cut: bool) -> bool:
    one, many = np.array(box, np.float32)[:, None], np.array(others, np.float32).T
    if (overlap(one, many) > iou_threshold).any():
        return True
    if not is_cut:
        return False
    wide = np.minimum(one[2], many[2]) - np.maximum(one[0], many[0])
    high = np.minimum(one[3], many[3]) - np.maximum(one[1], many[1])
    area = max((box[2] - box[0]) * (box[3] - box[1]), 1e-6)
    inside = np.maximum(wide, 0) * np.maximum(high, 0) / area
    return bool((inside > max(iou_threshold, 0.5)).any())


def _is_cut(item: Item, area: Area, width: int, height: int) -> bool:
    """Return whether an item of a tile touches an edge of it that is not the picture's."""
    if item.box is None:
        return False
    left, top, right, bottom = item.box
    wide, high = area[2] - area[0], area[3] - area[1]
    return (
        (area[0] > 0 and left <= EDGE_PX)
        or (area[1] > 0 and top <= EDGE_PX)
        or (area[2] < width and right >= wide - EDGE_PX)
        or (area[3] < height and bottom >= high - EDGE_PX)
    )
