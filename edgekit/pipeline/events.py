"""Debounce: one event for a change, instead of a result for every frame.

Detections, anomalies and speech are *present* or not, label by label; a classifier of whole frames is in
one *state* at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from edgekit.core.spec import Item, Prediction
from edgekit.core.tasks import TASKS
from edgekit.pipeline.check import Count, Options

Change = Literal["appeared", "vanished", "started", "ended", "changed", "counted"]
InPlace = Literal["entered", "left", "dwelled", "crossed"]
"""What an object did in a zone or on a line."""

_KINDS: dict[str, tuple[Change, Change]] = {
    "appeared": ("appeared", "vanished"),
    "started": ("started", "ended"),
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One debounced change.

    ``id`` is the same when something appears and when it vanishes. ``label`` is what appeared, started,
    vanished or ended, or the new state; ``previous`` is the old state of a ``changed``. ``count``,
    ``item`` (the best) and ``tracks`` are those of that label in the deciding frame, which has ``total``
    items in all; 0 and None if it is gone. ``end_ns`` and ``end_unix_ms``: the last frame that had it.

    With ``[track]`` an event is of one object: ``start_seq`` to ``start_unix_ms`` are of the frame in which
    it came into view, entered the ``zone``, or passed the ``line`` in a ``direction``; ``count`` is what the
    zone or the line has counted.
    """

    id: str
    kind: Change | InPlace
    stage: str = ""
    """Of a pipeline of several models, the one whose label it is; empty for the first."""
    label: str
    seq: int
    captured_ns: int
    captured_unix_ms: int
    previous: str = ""
    count: int = 0
    total: int = 0
    item: Item | None = None
    tracks: tuple[int, ...] = ()
    end_ns: int = 0
    end_unix_ms: int = 0
    start_seq: int = 0
    start_ns: int = 0
    start_unix_ms: int = 0
    zone: str = ""
    line: str = ""
    direction: str = ""
    dwell_s: float = 0.0
    speed_m_s: float | None = None


class Debounce(Options, frozen=True, kw_only=True):
    """``[events]``: a label appears after ``appear`` of ``window`` frames, is gone after ``vanish``.

    ``count``: whether there is also an event when the number of a label's items changes.
    """

    appear: Count = 3
    window: Count = 5
    vanish: Count = 10
    count: bool = False

    def problems(self) -> Iterable[str]:
        """Report a window in which nothing could appear."""
        if self.appear > self.window:
            yield f"appear: want at most events.window ({self.window}), got {self.appear}"


class _Seen:
    """One label's presence in the last frames, as bits, newest lowest."""

    __slots__ = ("bits", "is_present", "missed")

    def __init__(self) -> None:
        self.bits = 0
        self.missed = 0
        self.is_present = False


class Presence:
    """Finds when a label becomes present and when it is gone.

    >>> presence = Presence(Debounce(appear=2, window=3, vanish=2))
    >>> [presence.step({"cat"} if there else set()) for there in (1, 0, 1, 0, 0)]
    [[], [], [('cat', True)], [], [('cat', False)]]
    """

    def __init__(self, rule: Debounce) -> None:
        self._rule = rule
        self._mask = (1 << rule.window) - 1
        self._seen: dict[str, _Seen] = {}

    def step(self, labels: set[str]) -> list[tuple[str, bool]]:
        """Return (label, is present now) for each change with the labels of one frame."""
        for label in labels - self._seen.keys():
            self._seen[label] = _Seen()
        changes = []
        for label in sorted(self._seen):
            seen, is_there = self._seen[label], label in labels
            seen.bits = (seen.bits << 1 | is_there) & self._mask
            seen.missed = 0 if is_there else seen.missed + 1
            if not seen.is_present and seen.bits.bit_count() >= self._rule.appear:
                seen.is_present = True
                changes.append((label, True))
            elif seen.is_present and seen.missed >= self._rule.vanish:
                seen.is_present, seen.bits = False, 0
                changes.append((label, False))
            if not seen.is_present and not seen.bits:
                del self._seen[label]
        return changes


class State:
    """Finds when the label of whole frames changes.

    >>> state = State(Debounce(appear=2, window=3))
    >>> [state.step(label) for label in ("walk", "walk", "run", "walk", "run")]
    [None, ('', 'walk'), None, None, ('walk', 'run')]
    """

    def __init__(self, rule: Debounce, current: str = "") -> None:
        self._rule = rule
        self._recent: deque[str] = deque(maxlen=rule.window)
        self.current = current

    def step(self, label: str) -> tuple[str, str] | None:
        """Return (before, after) if one frame's best label ('' for none) changes the state."""
        self._recent.append(label)
        if label == self.current or self._recent.count(label) < self._rule.appear:
            return None
        before, self.current = self.current, label
        return before, label

    def is_only(self, label: str) -> bool:
        """Return whether it is in this state and has seen nothing else of late."""
        return self.current == label and self._recent.count(label) == len(self._recent)


class Counts:
    """Finds when the number of a label's items changes; never, unless the rule says ``count``.

    >>> counts = Counts(Debounce(appear=2, window=3, count=True))
    >>> [counts.step(labels) for labels in (["cat"], ["cat"], ["cat"] * 2, ["cat"])]
    [[], [('cat', 0, 1)], [], []]
    """

    def __init__(self, rule: Debounce) -> None:
        self._rule = rule
        self._states: dict[str, State] = {}

    def step(self, labels: Iterable[str]) -> list[tuple[str, int, int]]:
        """Return (label, before, after) for each change with the labels of one frame's items."""
        if not self._rule.count:
            return []
        now, changes = Counter(labels), []
        for label in sorted({*now, *self._states}):
            state = self._states.setdefault(label, State(self._rule, "0"))
            if (change := state.step(str(now[label]))) is not None:
                changes.append((label, int(change[0]), int(change[1])))
            if state.is_only("0"):
                del self._states[label]
        return changes


class EventMaker:
    """Turns predictions into events, with ids from ``new_id``; in one thread at a time."""

    def __init__(self, rule: Debounce, new_id: Callable[[], str]) -> None:
        self._presence, self._state, self._new_id = Presence(rule), State(rule), new_id
        self._counts = Counts(rule)
        self._ids: dict[str, str] = {}
        self._last: dict[str, tuple[int, int]] = {}
        """The last frame of each present label: monotonic ns, Unix ms."""

    def step(
        self, prediction: Prediction, seq: int, captured_ns: int, captured_unix_ms: int
    ) -> tuple[Event, ...]:
        """Return what changed with this frame; empty for most."""
        stamp = {"seq": seq, "captured_ns": captured_ns, "captured_unix_ms": captured_unix_ms}
        stamp["total"] = len(prediction.items)
        row = TASKS[prediction.task]
        if row.events in _KINDS:
            return self._presences(prediction, row.events, stamp)
        if row.events == "changed":
            best = prediction.best
            change = self._state.step(best.label if best else "")
            if change is not None:
                items = [best] if best else []
                before, after = change
                return (_event("changed", after, items, stamp, id=self._new_id(), previous=before),)
        return ()

    def _presences(self, prediction: Prediction, kind: str, stamp: dict[str, int]) -> tuple[Event, ...]:
        by_label: dict[str, list[Item]] = {}
        for item in prediction.items:
            if kind != "started" or item.index != 0:  # 'normal' and 'silence' are absence
                by_label.setdefault(item.label, []).append(item)
        starts, ends = _KINDS[kind]
        events = []
        for label, is_present in self._presence.step(set(by_label)):
            items = by_label.get(label, [])
            if is_present:
                self._ids[label] = self._new_id()
                events.append(_event(starts, label, items, stamp, id=self._ids[label]))
            else:
                end_ns, end_unix_ms = self._last.pop(label)
                end = {"id": self._ids.pop(label), "end_ns": end_ns, "end_unix_ms": end_unix_ms}
                events.append(_event(ends, label, items, stamp, **end))
        for label, before, _ in self._counts.step(
            item.label for items in by_label.values() for item in items
        ):
            items, previous = by_label.get(label, []), str(before)
            events.append(_event("counted", label, items, stamp, id=self._new_id(), previous=previous))
        for label in by_label.keys() & self._ids.keys():
            self._last[label] = (stamp["captured_ns"], stamp["captured_unix_ms"])
        return tuple(events)


def _event(kind: Change, label: str, items: list[Item], stamp: dict[str, Any], **more: Any) -> Event:
    return Event(
        kind=kind,
        label=label,
        count=len(items),
        item=items[0] if items else None,
        tracks=tuple(item.track for item in items if item.track is not None),
        **stamp,
        **more,
    )
