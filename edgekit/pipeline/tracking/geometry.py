"""Points, polygons, lines and the ground plane."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


def depth_in(point: Point, polygon: Sequence[Point]) -> float:
    """Return how far a point is inside a polygon: the distance to its nearest edge, negative outside.

    >>> square = [(0, 0), (4, 0), (4, 4), (0, 4)]
    >>> depth_in((1, 2), square), depth_in((7, 8), square)
    (1.0, -5.0)
    """
    x, y = point
    is_inside, nearest = False, math.inf
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            is_inside = not is_inside
        nearest = min(nearest, _distance(point, (x1, y1), (x2, y2)))
    return nearest if is_inside else -nearest


def _distance(point: Point, start: Point, end: Point) -> float:
    """Return the distance of a point to a segment."""
    along, length = _along(point, start, end), math.dist(start, end)
    share = min(max(along / length, 0.0), 1.0) if length else 0.0
    x, y = (start[i] + share * (end[i] - start[i]) for i in (0, 1))
    return math.dist(point, (x, y))


def _along(point: Point, start: Point, end: Point) -> float:
    """Return how far along a segment a point stands."""
    length = math.dist(start, end) or 1.0
    return (
        (point[0] - start[0]) * (end[0] - start[0]) + (point[1] - start[1]) * (end[1] - start[1])
    ) / length


def beside(point: Point, start: Point, end: Point) -> float:
    """Return the distance of a point to the line through two points; its sign says on which side it is.

    Positive is on the right of whoever stands at ``start`` and looks at ``end``, in a picture whose y grows
    downwards.

    >>> beside((0.0, 1.0), (0.0, 0.0), (1.0, 0.0))
    1.0
    """
    length = math.dist(start, end)
    cross = (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
    return cross / length


def passes(before: Point, after: Point, start: Point, end: Point, reach: float) -> bool:
    """Return whether the way between two points, one on each side, crosses a segment that ``reach`` extends.

    >>> passes((0, -1), (1, 1), (0, 0), (2, 0), 0.0), passes((5, -1), (5, 1), (0, 0), (2, 0), 0.0)
    (True, False)
    """
    one, other = beside(before, start, end), beside(after, start, end)
    share = one / (one - other) if one != other else 0.0
    x, y = (before[i] + share * (after[i] - before[i]) for i in (0, 1))
    return -reach <= _along((x, y), start, end) <= math.dist(start, end) + reach


class Ground:
    """The ground plane, from four points of the picture and the same in metres.

    Source: Hartley and Zisserman, "Multiple View Geometry", 2nd edition, 4.1: the direct linear transform.
    """

    def __init__(self, picture: Sequence[Point], metres: Sequence[Point]) -> None:
        rows = []
        for (x, y), (east, north) in zip(picture, metres, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -east * x, -east * y], [0, 0, 0, x, y, 1, -north * x, -north * y]]
        values = [value for point in metres for value in point]
        solved = np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))
        self._matrix: NDArray[np.float64] = np.append(solved, 1.0).reshape(3, 3)

    def metres(self, point: Point) -> Point:
        """Return where on the ground a point of the picture is.

        >>> ground = Ground([(0, 0), (1, 0), (1, 1), (0, 1)], [(0, 0), (2, 0), (2, 4), (0, 4)])
        >>> [round(value, 6) for value in ground.metres((0.5, 0.5))]
        [1.0, 2.0]
        """
        x, y, scale = (self._matrix @ (*point, 1.0)).tolist()
        return x / scale, y / scale
