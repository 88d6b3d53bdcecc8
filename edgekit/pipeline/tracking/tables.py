"""The keys of ``[track]``, ``[[zone]]`` and ``[[line]]``; positions are in shares of the picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from edgekit.core.spec import NAME
from edgekit.pipeline.check import Count, Options

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Position = tuple[Share, Share]
Anchor = Literal["centre", "bottom", "top"]
Motion = Literal["any", "moving", "still"]


class TrackTable(Options, frozen=True, kw_only=True):
    """``[track]``: which boxes are followed, and how.

    ``labels``: followed ones; empty: all. ``alike``: labels that the model confuses, which are one for the
    tracker; ``"*"`` is every other. ``high_score``: from which a box counts in the first association and may
    begin a track (by default the pipeline's threshold); ``new_score``: the same, for a beginning alone;
    ``low_score``: from which it may continue one. ``min_iou``, ``min_iou_low``, ``min_iou_new``: how much a
    box must share with the place where its track is expected; of the first association, of the second, and
    of a track's second box. ``confirm``: boxes until a track counts. ``keep_s``: how long a lost track may
    return. ``rejoin``: whether it may by its place alone, where the boxes share nothing.

    ``min_height``, ``max_height``: of a box, in shares of the picture's height. ``anchor``: the point of the
    box that is in a zone or crosses a line. ``margin``: how far beyond an edge or a line the anchor has
    passed it, in shares of the box's side (the square root of its area). ``still_s``: after so long within
    half its side of one point an object stands still. ``ground``: four points of the ground in the picture,
    and ``ground_m`` the same in metres, for speeds.
    """

    labels: tuple[str, ...] = ()
    alike: tuple[tuple[str, ...], ...] = ()
    high_score: Share | None = None
    new_score: Share | None = None
    low_score: Share = 0.1
    min_iou: Share = 0.2
    min_iou_low: Share = 0.5
    min_iou_new: Share = 0.3
    confirm: Count = 3
    keep_s: Seconds = 2.0
    rejoin: bool = True
    min_height: Share = 0.0
    max_height: Share = 1.0
    anchor: Anchor = "centre"
    margin: Share = 0.1
    still_s: Seconds = 2.0
    ground: tuple[Position, ...] = ()
    ground_m: tuple[tuple[float, float], ...] = ()

    def problems(self) -> Iterable[str]:
        """Report bounds in the wrong order, labels in two groups, and a ground without four points."""
        if self.min_height >= self.max_height:
            yield f"min_height: want less than max_height ({self.max_height}), got {self.min_height}"
        named = [label for group in self.alike for label in group]
        if twice := sorted({label for label in named if named.count(label) > 1}):
            yield f"alike: want each label in one group, got {', '.join(map(repr, twice))} twice"
        if (self.ground or self.ground_m) and not len(self.ground) == len(self.ground_m) == 4:
            got = f"{len(self.ground)} and {len(self.ground_m)}"
            yield f"ground: want four points, and four in ground_m, got {got}"
        elif any(_are_in_line(points) for points in (self.ground, self.ground_m) if points):
            yield "ground: want no three points on one straight line"


class PlaceTable(Options, frozen=True, kw_only=True):
    """What a zone and a line have in common.

    ``labels``: of the objects that count; empty: all. ``anchor``: in place of ``[track]``'s.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    anchor: Anchor | None = None

    def problems(self) -> Iterable[str]:
        """Report a name that is missing or cannot be used."""
        if not NAME.fullmatch(self.name):
            yield f"name: want lower-case letters, digits, '.', '_', '-', got {self.name!r}"


class ZoneTable(PlaceTable, frozen=True, kw_only=True):
    """``[[zone]]``: a polygon of the picture.

    ``count``: what the ``count`` of its events says: how many have entered (``enter``) or left (``leave``)
    so far, or how many are ``inside``. ``dwell_s``: after so long inside there is an event; 0: none.
    ``motion``: which objects are in it: any, those ``moving`` (a parked car never), or those standing
    ``still`` (nobody who passes).
    """

    polygon: tuple[Position, ...]
    count: Literal["enter", "leave", "inside"] = "inside"
    dwell_s: Seconds = 0.0
    motion: Motion = "any"

    def problems(self) -> Iterable[str]:
        """Report a polygon that has no area, or crosses itself."""
        yield from super().problems()
        yield from polygon_problems(self.polygon)


class LineTable(PlaceTable, frozen=True, kw_only=True):
    """``[[line]]``: from one point to another.

    ``directions``: what a crossing is called. Whoever stands at the first point and looks at the second one
    has objects of the first direction come from the left and go to the right.
    """

    points: tuple[Position, Position]
    directions: tuple[str, str] = ("forward", "backward")

    def problems(self) -> Iterable[str]:
        """Report a line without length, and directions of one name."""
        yield from super().problems()
        if self.points[0] == self.points[1]:
            yield "points: want two different points"
        if len({*self.directions, ""}) < 3:
            yield f"directions: want two different names, got {list(self.directions)}"


Points = tuple[tuple[float, float], ...]


def polygon_problems(polygon: Points) -> Iterable[str]:
    """Report a polygon that has no area, or crosses itself."""
    if len(polygon) < 3 or abs(_area(polygon)) < 1e-6:
        yield f"polygon: want at least three points around an area, got {len(polygon)}"
    elif _crosses_itself(polygon):
        yield "polygon: want edges that do not cross each other"


def _area(points: Points) -> float:
    """Return twice the signed area of a polygon."""
    pairs = zip(points, (*points[1:], points[0]), strict=True)
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)


def _are_in_line(points: Points) -> bool:
    triples = (points[:index] + points[index + 1 :] for index in range(len(points)))
    return any(abs(_area(triple)) < 1e-9 for triple in triples)


def _crosses_itself(points: Points) -> bool:
    edges = list(zip(points, (*points[1:], points[0]), strict=True))
    return any(
        _cross(edges[i], edges[j])
        for i in range(len(edges))
        for j in range(i + 2, len(edges))
        if (j + 1) % len(edges) != i  # neighbours share a point
    )


def _cross(one: Points, other: Points) -> bool:
    return all(
        _area((*edge, points[0])) * _area((*edge, points[1])) < 0
        for edge, points in ((one, other), (other, one))
    )
