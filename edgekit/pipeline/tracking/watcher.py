"""From a frame's boxes to items with a track's number, and events of objects, zones and lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError
from edgekit.core.ports import Frame
from edgekit.core.spec import Item, Manifest, Prediction
from edgekit.core.tasks import TASKS
from edgekit.pipeline.events import Change, Counts, Debounce, Event, InPlace
from edgekit.pipeline.tracking.geometry import Ground
from edgekit.pipeline.tracking.objects import Moment, Object
from edgekit.pipeline.tracking.places import Happening, Line, Zone
from edgekit.pipeline.tracking.tables import LineTable, TrackTable, ZoneTable
from edgekit.pipeline.tracking.tracker import Track, Tracker


class Watcher:
    """Follows the objects of one pipeline; in one thread at a time.

    Args:
        table: ``[track]``.
        zones: ``[[zone]]``.
        lines: ``[[line]]``.
        debounce: ``[events]``: of the change of a count.
        threshold: The score from which an item is reported, in place of the bundle's.
        new_id: Returns an id for an event.
    """

    def __init__(
        self,
        table: TrackTable,
        zones: Sequence[ZoneTable] = (),
        lines: Sequence[LineTable] = (),
        debounce: Debounce | None = None,
        *,
        threshold: float | None = None,
        new_id: Callable[[], str],
    ) -> None:
        self._table, self._zone_tables, self._line_tables = table, zones, lines
        self._threshold, self._new_id = threshold, new_id
        self._tracker = Tracker(table)
        self._counts = Counts(debounce or Debounce())
        self._ground = Ground(table.ground, table.ground_m) if table.ground else None
        self._objects: dict[int, Object] = {}
        """By the identity of the track, which lives as long."""
        self._next_key, self._aspect = 0, 0.0
        self._zones: list[Zone] = []
        self._lines: list[Line] = []
        self._began: Moment | None = None
        self._last_seq = -1

    def step(
        self, frame: Frame, prediction: Prediction, threshold: float
    ) -> tuple[Prediction, tuple[Event, ...]]:
        """Take a frame's items, those below the threshold too.

        Args:
            frame: The frame, an image.
            prediction: Its items; those without a position are not followed.
            threshold: The bundle's: an item of this score is reported even without a track.

        Returns:
            The items that are reported: from the threshold on, or followed; with their tracks' numbers.
            And what happened.
        """
        now = Moment.of(frame)
        threshold = threshold if self._threshold is None else self._threshold
        height, width = frame.data.shape[:2]
        self._began = self._began or now
        self._shape(width / height)
        boxes = self._boxes(prediction.items, height)
        frames, self._last_seq = now.seq - self._last_seq, now.seq
        found, ended = self._tracker.step(prediction.items, boxes, threshold, now.time_s, frames)
        seen = [self._object(track, now) for track in found.values()]
        items = _reported(prediction.items, found, threshold)
        total = len(items)
        events = [event for thing in seen for event in self._seen(thing, now, total)]
        events += [event for track in ended for event in self._ended(track, now, total)]
        events += self._changes(seen, now, total)
        return msgspec.structs.replace(prediction, items=items), tuple(events)

    def carry(self, frame: Frame, task: str) -> Prediction:
        """Return where what was seen last time is expected, in a frame that no model looked at."""
        now, height = Moment.of(frame), frame.data.shape[0]
        frames, self._last_seq = now.seq - self._last_seq, now.seq
        items = [
            Item(
                label=track.label, score=track.item.score, index=track.item.index, box=box, track=track.number
            )
            for track, box in self._tracker.carry(frames, height)
        ]
        return Prediction(task=task, items=tuple(items))

    def _shape(self, aspect: float) -> None:
        """Lay the zones and lines over pictures of this shape; a change of it makes them anew."""
        if abs(aspect - self._aspect) < 0.01:
            return
        self._aspect = aspect
        self._zones = [Zone(table, aspect, self._new_id) for table in self._zone_tables]
        self._lines = [Line(table, aspect, self._new_id) for table in self._line_tables]

    def _boxes(self, items: Sequence[Item], height: int) -> NDArray[np.float64]:
        """Return each item's box in heights of the picture; NaN for what is not to be followed."""
        boxes = np.full((len(items), 4), np.nan)
        labels = self._table.labels
        for index, item in enumerate(items):
            box = item.extent() if not labels or item.label in labels else None
            if (
                box is not None
                and self._table.min_height <= (box[3] - box[1]) / height <= self._table.max_height
            ):
                boxes[index] = box
        return boxes / height

    def _object(self, track: Track, now: Moment) -> Object:
        thing = self._objects.get(id(track))
        if thing is None:
            self._next_key += 1
            thing = self._objects[id(track)] = Object(self._next_key, track, self._table, now)
        else:
            thing.saw(now)
        return thing

    # -- what happened

    def _seen(self, thing: Object, now: Moment, total: int) -> Iterable[Event]:
        if thing.is_confirmed and not thing.id:
            thing.id = self._new_id()
            yield self._event("appeared", thing, now, total, id=thing.id, since=thing.first, count=1)
        assert self._began is not None
        for zone in self._zones:
            for happening in zone.step(thing, now, self._began.time_s):
                yield self._happened(happening, now, total)
        for line in self._lines:
            for happening in line.step(thing, now):
                yield self._happened(happening, now, total)

    def _ended(self, track: Track, now: Moment, total: int) -> Iterable[Event]:
        thing = self._objects.pop(id(track))
        for zone in self._zones:
            for happening in zone.end(thing):
                yield self._happened(happening, now, total)
        for line in self._lines:
            line.end(thing)
        if thing.id:
            yield self._event("vanished", thing, now, total, id=thing.id, since=thing.first, until=thing.seen)

    def _changes(self, seen: Sequence[Object], now: Moment, total: int) -> Iterable[Event]:
        labels = [thing.label for thing in seen if thing.is_confirmed]
        for label, before, after in self._counts.step(labels):
            yield Event(
                id=self._new_id(),
                kind="counted",
                label=label,
                previous=str(before),
                count=after,
                total=total,
                tracks=tuple(
                    sorted(t.track.number or 0 for t in seen if t.is_confirmed and t.label == label)
                ),
                **_stamp(now),
            )

    def _happened(self, what: Happening, now: Moment, total: int) -> Event:
        names = ("id", "since", "until", "zone", "line", "direction", "count")
        more = {name: getattr(what, name) for name in names}
        return self._event(what.kind, what.object, now, total, dwell_s=round(what.dwell_s, 3), **more)

    def _event(
        self,
        kind: Change | InPlace,
        thing: Object,
        now: Moment,
        total: int,
        *,
        since: Moment,
        until: Moment | None = None,
        **more: Any,
    ) -> Event:
        speed = None if self._ground is None else thing.speed_m_s(self._ground, self._aspect)
        return Event(
            kind=kind,
            label=thing.label,
            total=total,
            item=msgspec.structs.replace(thing.track.item, track=thing.track.number),
            tracks=(thing.track.number or 0,),
            start_ns=since.captured_ns,
            start_unix_ms=since.captured_unix_ms,
            start_seq=since.seq,
            end_ns=until.captured_ns if until else 0,
            end_unix_ms=until.captured_unix_ms if until else 0,
            speed_m_s=None if speed is None else round(speed, 2),
            **_stamp(now),
            **more,
        )

    def document(self) -> dict[str, Any]:
        """Return the counts of the run, for its summary."""
        document: dict[str, Any] = {"tracks": self._tracker.confirmed}
        if self._zones:
            document["zones"] = {zone.table.name: zone.document() for zone in self._zones}
        if self._lines:
            document["lines"] = {line.table.name: line.document() for line in self._lines}
        return document


def _stamp(now: Moment) -> dict[str, Any]:
    return {"seq": now.seq, "captured_ns": now.captured_ns, "captured_unix_ms": now.captured_unix_ms}


def _reported(items: Sequence[Item], found: dict[int, Track], threshold: float) -> tuple[Item, ...]:
    """Return the items from the threshold on, and weaker ones that continue a confirmed track."""
    kept = []
    for index, item in enumerate(items):
        number = found[index].number if index in found else None
        if number is not None:
            kept.append(msgspec.structs.replace(item, track=number))
        elif (item.score or 0.0) >= threshold:
            kept.append(item)
    return tuple(kept)


def check_track(manifest: Manifest) -> None:
    """Check that a model's items have a place in the picture.

    Raises:
        ConfigError: They have none.
    """
    if "boxes" not in TASKS[manifest.task].egress:
        raise ConfigError(
            f"track: want a model that finds boxes, got {manifest.model} {manifest.version} for the task "
            f"{manifest.task!r}",
            hint="take [track] out, or use a detector",
        )
