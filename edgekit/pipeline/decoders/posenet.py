"""People's keypoints from PoseNet's maps.

Outputs ``heatmaps`` [1, h, w, K], ``offsets`` [1, h, w, 2K] (y of every point, then x, in pixels),
``forward`` and ``backward`` [1, h, w, 2E] (displacements along the E edges of the skeleton, likewise). A
person begins at the best peak that no person has yet, and its other points are found along the edges.
Options: ``activation`` (``sigmoid`` where the heat maps are logits), ``edges`` (pairs of points), ``radius``
(how near, in pixels, a peak is one of a person that is found).

No real file seen: made from G. Papandreou et al., "PersonLab" (2018), sections 3.1 to 3.3, and PoseNet's
published skeleton.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.items import DetectOptions, Extras, Finish, bounded, sigmoid

Floats = NDArray[np.float32]
Point = Annotated[int, msgspec.Meta(ge=0, le=1000)]
_MOST = 20
_SKELETON = (
    *((0, 1), (1, 3), (0, 2), (2, 4), (0, 5), (5, 7), (7, 9), (5, 11)),
    *((11, 13), (13, 15), (0, 6), (6, 8), (8, 10), (6, 12), (12, 14), (14, 16)),
)
"""Source: PoseNet's published chain of parts, over COCO's 17 points."""


class PosenetOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of a PoseNet; see the module."""

    nms: Literal["none"] = "none"
    activation: Literal["none", "sigmoid"] = "sigmoid"
    edges: tuple[tuple[Point, Point], ...] = _SKELETON
    radius: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    point_names: tuple[str, ...] = ()


class _Maps:
    """One picture's maps: heat (h, w, K) as probabilities, and places in pixels of the input."""

    def __init__(self, outcome: Outcome, options: PosenetOptions, size: Floats) -> None:
        tensors = {name: bounded(array[0]) for name, array in outcome.tensors.items()}
        heat = tensors["heatmaps"]
        self.heat = sigmoid(heat) if options.activation == "sigmoid" else heat
        self._offsets, self._edges = tensors["offsets"], options.edges
        self._moves = {1: tensors["forward"], -1: tensors["backward"]}
        self._rows, self._columns, self.points = heat.shape
        # the cells' corners span the picture: the last one is its edge
        self._step = (size[::-1] - 1) / np.maximum(np.array(heat.shape[:2]) - 1, 1)

    def place(self, cell: tuple[int, int], point: int) -> Floats:
        """Return y and x of a point that a cell names."""
        y, x = cell
        return np.asarray((y, x) * self._step + self._offsets[y, x, [point, point + self.points]], np.float32)

    def follow(self, start: Floats, edge: int, point: int, way: int) -> tuple[Floats, float]:
        """Return the place and score of the point at the other end of an edge."""
        moves, cell = self._moves[way], self._cell(start)
        target = start + moves[cell[0], cell[1], [edge, edge + len(self._edges)]]
        near = self._cell(target)
        return self.place(near, point), float(self.heat[near[0], near[1], point])

    def _cell(self, place: Floats) -> tuple[int, int]:
        y, x = np.rint(place / self._step).astype(int)
        return min(max(y, 0), self._rows - 1), min(max(x, 0), self._columns - 1)

    def person(self, cell: tuple[int, int], point: int) -> tuple[Floats, Floats]:
        """Return places (K, 2) and scores (K,) of a person, begun at one of its points."""
        places, scores = np.zeros((self.points, 2), np.float32), np.full(self.points, -1.0, np.float32)
        places[point], scores[point] = self.place(cell, point), self.heat[cell[0], cell[1], point]
        for number, (parent, child) in reversed(list(enumerate(self._edges))):
            if scores[child] >= 0 > scores[parent]:
                places[parent], scores[parent] = self.follow(places[child], number, parent, -1)
        for number, (parent, child) in enumerate(self._edges):
            if scores[parent] >= 0 > scores[child]:
                places[child], scores[child] = self.follow(places[parent], number, child, 1)
        return places, np.maximum(scores, 0)


def build(setup: Setup) -> Decoder:
    """Return a decoder: each person over the threshold, best first, at most 20."""
    options = options_of(setup, PosenetOptions)
    high, wide, points = shape_of(setup, "heatmaps", (1, -1, -1, -1))[1:]
    shape_of(setup, "offsets", (1, high, wide, 2 * points))
    for name in ("forward", "backward"):
        shape_of(setup, name, (1, high, wide, 2 * len(options.edges)))
    finish = Finish(setup, options, 1)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        maps = _Maps(outcome, options, finish.size)
        people: list[tuple[Floats, Floats]] = []
        for y, x, point in _peaks(maps.heat, finish.bound):
            if len(people) == _MOST:
                break
            start = maps.place((y, x), point)
            if all(np.hypot(*(places[point] - start)) > options.radius for places, _ in people):
                people.append(maps.person((y, x), point))
        if not people:
            return ()
        places = np.stack([row for row, _ in people])[:, :, ::-1]
        sure = np.stack([row for _, row in people])
        scores = sure.mean(axis=1)
        boxes = np.concatenate([places.min(axis=1), places.max(axis=1)], axis=1)
        kept = finish.keep(boxes, scores, np.zeros(len(people), np.intp))
        kept = kept[scores[kept] >= finish.bound]
        extras = Extras(places[kept], sure[kept], options.point_names)
        return finish.items(
            boxes[kept], scores[kept], np.zeros(len(kept), np.intp), outcome.placement, extras
        )

    return decode


def _peaks(heat: Floats, bound: float) -> list[tuple[int, int, int]]:
    """Return (row, column, point) of the cells that no neighbour within 1 exceeds, best first."""
    padded = np.pad(heat, ((1, 1), (1, 1), (0, 0)), constant_values=-1)
    rows, columns = heat.shape[:2]
    highest = np.max([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
    found = np.argwhere((heat >= bound) & (heat >= highest))
    order = np.argsort(-heat[tuple(found.T)], kind="stable")
    return [(int(y), int(x), int(k)) for y, x, k in found[order]]
