"""The crop that follows one person from picture to picture, as MoveNet's demonstration makes it.

A square round the hips, as large as the torso or the body needs, is what the network sees next; the whole
picture where no torso is sure. Only for the pictures of one camera in their order.

Source: TensorFlow Hub, "MoveNet: Ultra fast and accurate pose detection model", ``determine_crop_region``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item

_SURE = 0.2
_TORSO_REACH, _BODY_REACH = 1.9, 1.2
_SHOULDERS, _HIPS = ("left shoulder", "right shoulder"), ("left hip", "right hip")
Region = tuple[int, int, int, int]
"""Left, top, right and bottom, in whole pixels of the picture."""


class MovingCrop:
    """Remembers where the next picture is cut; one thread may cut while another one follows."""

    def __init__(self) -> None:
        self._region: Region | None = None

    def reset(self) -> None:
        """Begin with the whole picture again."""
        self._region = None

    def cut(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Return the part of a picture to look at, and where it begins (x, y); the whole of another size."""
        region = self._region
        if region is None or region[2] > pixels.shape[1] or region[3] > pixels.shape[0]:
            return pixels, (0, 0)
        left, top, right, bottom = region
        return np.ascontiguousarray(pixels[top:bottom, left:right]), (left, top)

    def follow(self, items: Sequence[Item], size: tuple[int, int]) -> None:
        """Choose the next crop by what was seen.

        Args:
            items: With points in pixels of the whole picture; the best first.
            size: Width and height of the picture.
        """
        self._region = next_region(items[0], size) if items else None


def next_region(item: Item, size: tuple[int, int]) -> Region | None:
    """Return the square round a person's hips, cut at the picture's edges, or None for the whole picture."""
    rows = zip(item.point_names, item.points or (), item.point_scores or (), strict=False)
    points = {name: np.array(point) for name, point, score in rows if score > _SURE}
    if not all(any(name in points for name in pair) for pair in (_SHOULDERS, _HIPS)):
        return None
    centre = np.mean([points[name] for name in _HIPS if name in points], axis=0)
    torso = [np.abs(points[n] - centre).max() for n in (*_SHOULDERS, *_HIPS) if n in points]
    body = [np.abs(point - centre).max() for point in points.values()]
    half = max(_TORSO_REACH * max(torso), _BODY_REACH * max(body))
    width, height = size
    half = min(half, max(centre[0], width - centre[0], centre[1], height - centre[1]))
    if half > max(size) / 2 or half < 1:
        return None
    low, high = np.maximum(centre - half, 0).astype(int), np.ceil(np.minimum(centre + half, size)).astype(int)
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1])) if (high - low).min() > 1 else None
