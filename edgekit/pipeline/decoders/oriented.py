"""Oriented boxes: what two of them share, and their way into the picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import OrientedBox
from edgekit.pipeline.pre import Placement

_TINY = 1e-7


def shared_area(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much oriented boxes share, 0 to 1: 1 minus the Hellinger distance of their Gaussians.

    Source: J. Murrugarra-Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union
    for Object Detection" (2021), which the YOLO exporters suppress by.

    Args:
        first: Shape (5, ...): centre x, centre y, width, height, angle in radians.
        second: Shape (5, ...); the shapes after the 5 broadcast.
    """
    a1, b1, c1 = _covariance(first.astype(np.float64))
    a2, b2, c2 = _covariance(second.astype(np.float64))
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    x, y = (second[i].astype(np.float64) - first[i] for i in (0, 1))
    together = np.maximum(a * b - c * c, _TINY)
    far = ((a * y * y + b * x * x) / 4 - c * x * y / 2) / together
    alone = np.maximum(a1 * b1 - c1 * c1, 0) * np.maximum(a2 * b2 - c2 * c2, 0)
    unlike = np.log(together / (4 * np.sqrt(alone) + _TINY) + _TINY) / 2
    distance = np.clip(far + unlike, 0, 100)
    return np.asarray(1 - np.sqrt(np.maximum(1 - np.exp(-distance), 0)), np.float32)


def _covariance(
    boxes: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the variances in x and y, and their covariance, of boxes as Gaussians."""
    along, across = boxes[2] ** 2 / 12, boxes[3] ** 2 / 12
    cos, sin = np.cos(boxes[4]), np.sin(boxes[4])
    return (
        along * cos**2 + across * sin**2,
        along * sin**2 + across * cos**2,
        (along - across) * cos * sin,
    )


def to_oriented(box: NDArray[np.float32], placement: Placement | None) -> OrientedBox:
    """Return an oriented box in the picture's pixels, its angle from -pi/2 to pi/2, not clipped.

    >>> to_oriented(np.float32([10, 20, 8, 4, 3.5]), None)[4] == 3.5 - math.pi
    True

    Where the picture was stretched a rectangle becomes a rhomboid: the sides keep their lengths, the width
    its direction.
    """
    x, y, width, height, angle = box.astype(np.float64).tolist()
    if placement is not None:
        x, y = (x - placement.left) / placement.scale_x, (y - placement.top) / placement.scale_y
        cos, sin = math.cos(angle), math.sin(angle)
        wide, high = cos / placement.scale_x, sin / placement.scale_y
        width, angle = width * math.hypot(wide, high), math.atan2(high, wide)
        height *= math.hypot(sin / placement.scale_x, cos / placement.scale_y)
    return (x, y, width, height, math.remainder(angle, math.pi))
