# ruff: noqa: INP001 - a user's folder, no package
"""Made scenes for a detector: circles, squares and triangles over clutter, with their boxes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = ("circle", "square", "triangle")
_MOST, _GAP_PX = 4, 6


def scene(seed: int, width: int = 128, height: int = 128) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a picture and what is in it; the same for the same seed.

    Args:
        seed: Of the random numbers.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.

    Returns:
        The picture, (height, width, 3), uint8, BGR; and its shapes, (n, 5), float32: class, left, top, right,
        bottom in pixels. No two of them touch.
    """
    rng = np.random.default_rng(seed)
    pixels = _clutter(rng, width, height)
    side = min(width, height)
    taken: list[tuple[float, ...]] = []
    for _ in range(int(rng.integers(1, _MOST + 1))):
        size = int(rng.integers(side // 8, side * 5 // 8))
        left, top = (int(rng.integers(2, max(3, room - size - 2))) for room in (width, height))
        box = (left, top, left + size, top + size)
        if not any(_touches(box, other[1:]) for other in taken):
            which = int(rng.integers(len(LABELS)))
            _draw(pixels, which, box, tuple(int(v) for v in rng.integers(0, 256, 3)))
            taken.append((which, *box))
    noise = rng.normal(0, 6, pixels.shape)
    noisy = np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
    return noisy, np.array(taken, np.float32).reshape(-1, 5)


def _touches(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(
        first[axis] - _GAP_PX < second[axis + 2] and second[axis] - _GAP_PX < first[axis + 2]
        for axis in (0, 1)
    )


def _clutter(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Return a background of soft colours and thin lines, none of them a shape."""
    coarse = rng.integers(60, 196, (4, 4, 3)).astype(np.uint8)
    pixels: Any = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 5))):
        ends = [(int(rng.integers(width)), int(rng.integers(height))) for _ in range(2)]
        cv2.line(pixels, *ends, tuple(int(v) for v in rng.integers(0, 256, 3)), 1)
    found: NDArray[np.uint8] = pixels
    return found


def _draw(pixels: NDArray[np.uint8], which: int, box: tuple[int, ...], color: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    if which == 0:
        centre, radius = ((left + right) // 2, (top + bottom) // 2), (right - left) // 2
        cv2.circle(pixels, centre, radius, color, -1)
    elif which == 1:
        cv2.rectangle(pixels, (left, top), (right - 1, bottom - 1), color, -1)
    else:
        corners = np.array([[(left + right) // 2, top], [left, bottom - 1], [right - 1, bottom - 1]])
        cv2.fillPoly(pixels, [corners], color)
