"""Zones and lines: what an object over time does in them.

Hysteresis on both sides: an anchor has passed an edge or a line only when it is beyond it by a margin, in
either direction, so that an object that stands on a line is counted at most once. What an object does before
it is confirmed is kept, and happens once it is; if it never is, it never happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from edgekit.pipeline.events import InPlace
from edgekit.pipeline.tracking.geometry import Point, beside, depth_in, passes
from edgekit.pipeline.tracking.objects import Moment, Object
from edgekit.pipeline.tracking.tables import LineTable, ZoneTable

START_S = 1.0
"""What is in a zone within this after the first frame was there before, and did not enter."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that an object did in a place; ``since`` is when it began, or passed the line."""

    kind: InPlace
    object: Object
    id: str
    since: Moment
    until: Moment | None = None
    zone: str = ""
    line: str = ""
    direction: str = ""
    dwell_s: float = 0.0
    count: int = 0


@dataclass(slots=True)
class _Visit:
    """One object inside a zone; ``is_told`` once it counts."""

    id: str
    since: Moment
    was_there: bool
    has_dwelled: bool = False
    is_told: bool = False


class Zone:
    """A polygon in which objects are counted.

    Args:
        table: Its settings; the polygon in shares.
        aspect: The picture's width in heights.
        new_id: Returns an id for a visit.
    """

    def __init__(self, table: ZoneTable, aspect: float, new_id: Callable[[], str]) -> None:
        self.table, self._new_id = table, new_id
        self._polygon = [(x * aspect, y) for x, y in table.polygon]
        self._visits: dict[int, _Visit] = {}
        self._have_left: set[int] = set()
        """Who was here before and is still in view."""
        self.entered: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """How many confirmed objects are inside."""
        return sum(visit.is_told for visit in self._visits.values())

    def step(self, thing: Object, now: Moment, start_s: float) -> Iterable[Happening]:
        """Yield what an object that was seen in this frame did."""
        visit = self._visits.get(thing.key)
        depth = depth_in(thing.anchor(self.table.anchor), self._polygon)
        # the first place has no place before it, and so no side to come from
        margin = 0.0 if thing.is_new else thing.margin
        is_inside = depth > (margin if visit is None else -margin)
        if not (is_inside and self._counts(thing)):
            if visit is not None:
                yield from self._leave(thing, visit, now)
            return
        if visit is None:
            was_there = now.time_s - start_s <= START_S and thing.key not in self._have_left
            visit = self._visits[thing.key] = _Visit(self._new_id(), now, was_there)
        if thing.is_confirmed:
            yield from self._confirmed(thing, visit, now)

    def _counts(self, thing: Object) -> bool:
        table = self.table
        if table.labels and thing.label not in table.labels:
            return False
        return table.motion == "any" or thing.is_still == (table.motion == "still")

    def _confirmed(self, thing: Object, visit: _Visit, now: Moment) -> Iterable[Happening]:
        if not visit.is_told:
            visit.is_told = True
            if not visit.was_there:
                self.entered[thing.label] += 1
                yield self._happening("entered", thing, visit)
        dwell_s = now.time_s - visit.since.time_s
        if self.table.dwell_s and dwell_s >= self.table.dwell_s and not visit.has_dwelled:
            visit.has_dwelled = True
            yield self._happening("dwelled", thing, visit, dwell_s=dwell_s)

    def _leave(self, thing: Object, visit: _Visit, until: Moment) -> Iterable[Happening]:
        del self._visits[thing.key]
        self._have_left.add(thing.key)
        if thing.is_confirmed:
            if not visit.is_told:  # it was confirmed only now
                yield from self._confirmed(thing, visit, visit.since)
            self.left[thing.label] += 1
            dwell_s = until.time_s - visit.since.time_s
            yield self._happening("left", thing, visit, dwell_s=dwell_s, until=until)

    def end(self, thing: Object) -> Iterable[Happening]:
        """Yield what follows from an object's end: it left when it was seen last."""
        if (visit := self._visits.get(thing.key)) is not None:
            yield from self._leave(thing, visit, thing.seen)
        self._have_left.discard(thing.key)

    def _happening(self, kind: InPlace, thing: Object, visit: _Visit, **more: Any) -> Happening:
        counts = {"enter": self.entered.total(), "leave": self.left.total(), "inside": self.inside}
        number = counts[self.table.count]
        return Happening(kind, thing, visit.id, visit.since, zone=self.table.name, count=number, **more)

    def document(self) -> dict[str, Any]:
        """Return its counts, by label."""
        return {"entered": dict(self.entered), "left": dict(self.left), "inside": self.inside}


@dataclass(slots=True)
class _Beside:
    """One object beside a line: on which ``side`` it was sure to be last, and when and where it left it."""

    side: int
    last: Point
    passed: Moment | None = None
    has_met: bool = False


class Line:
    """A line across which objects are counted, by direction.

    Args:
        table: Its settings; the points in shares.
        aspect: The picture's width in heights.
        new_id: Returns an id for a crossing.
    """

    def __init__(self, table: LineTable, aspect: float, new_id: Callable[[], str]) -> None:
        self.table, self._new_id = table, new_id
        self._start, self._end = ((x * aspect, y) for x, y in table.points)
        self._beside: dict[int, _Beside] = {}
        self._kept: dict[int, list[Happening]] = {}
        self.crossed: dict[str, Counter[str]] = {name: Counter() for name in table.directions}

    def step(self, thing: Object, now: Moment) -> Iterable[Happening]:
        """Yield what an object that was seen in this frame did."""
        if self.table.labels and thing.label not in self.table.labels:
            return
        if (crossing := self._moved(thing, now)) is not None:
            self._kept.setdefault(thing.key, []).append(crossing)
        if thing.is_confirmed:
            for kept in self._kept.pop(thing.key, ()):
                counter = self.crossed[kept.direction]
                counter[thing.label] += 1
                yield Happening(
                    "crossed",
                    thing,
                    kept.id,
                    kept.since,
                    line=self.table.name,
                    direction=kept.direction,
                    count=counter.total(),
                )

    def _moved(self, thing: Object, now: Moment) -> Happening | None:
        """Return a crossing once its object is beyond the line by the margin."""
        point = thing.anchor(self.table.anchor)
        distance = beside(point, self._start, self._end)
        side = 1 if distance > 0 else -1
        known = self._beside.get(thing.key)
        if known is None:
            self._beside[thing.key] = _Beside(side if abs(distance) > thing.margin else 0, point)
            return None
        if known.side == 0:  # it came into view on the line itself
            known.side, known.last = (side if abs(distance) > thing.margin else 0), point
            return None
        if side == known.side:
            known.passed, known.last = None, point
            return None
        if known.passed is None:
            known.passed = now
            known.has_met = passes(known.last, point, self._start, self._end, thing.margin)
        if abs(distance) <= thing.margin:
            return None
        passed, known.passed, known.side, known.last = known.passed, None, side, point
        if not known.has_met:  # it went around the line's end
            return None
        direction = self.table.directions[0 if side > 0 else 1]
        return Happening("crossed", thing, self._new_id(), passed, direction=direction)

    def end(self, thing: Object) -> None:
        """Forget an object."""
        self._beside.pop(thing.key, None)
        self._kept.pop(thing.key, None)

    def document(self) -> dict[str, dict[str, int]]:
        """Return its counts: by direction, by label."""
        return {direction: dict(counter) for direction, counter in self.crossed.items()}
