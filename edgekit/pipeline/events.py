"""Debounce: what changed, told once, in place of what is there, told for every frame.

Pure state machines. Detections, anomalies and speech are *present* or not, label by label; a
classifier of whole frames is in one *state* at a time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

import msgspec

from edgekit.core.tasks import TASKS

if TYPE_CHECKING:
    from edgekit.core.spec import Item, Prediction

EventKind = Literal["appeared", "vanished", "started", "ended", "changed"]

_KINDS: dict[str, tuple[EventKind, EventKind]] = {
    "appeared": ("appeared", "vanished"),
    "started": ("started", "ended"),
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change that the debounce let through.

    ``label`` is what appeared, started, vanished, ended, or what the state became; ``previous`` is
    the state before, of a ``changed``. ``count``, ``score``, ``box`` and ``value`` are of the frame
    that settled it (the items of that label, the best of them), 0 or None where something is gone.
    ``total`` is how many items that frame has in all.
    """

    kind: EventKind
    label: str
    seq: int
    captured_ns: int
    captured_unix_ms: int
    previous: str = ""
    count: int = 0
    total: int = 0
    score: float = 0.0
    box: tuple[float, float, float, float] | None = None
    value: float | None = None


class Debounce(msgspec.Struct, frozen=True):
    """How sure a change must be: ``appear`` of the last ``window`` frames, gone after ``vanish``."""

    appear: int = 3
    window: int = 5
    vanish: int = 10


class _Seen:
    """What is remembered of one label: the last frames as bits, newest lowest."""

    __slots__ = ("bits", "is_present", "missed")

    def __init__(self) -> None:
        self.bits = 0
        self.missed = 0
        self.is_present = False


class Presence:
    """Tells when a label becomes present, and when it is gone.

    >>> presence = Presence(Debounce(appear=2, window=3, vanish=2))
    >>> [presence.step({"cat"} if there else set()) for there in (1, 0, 1, 0, 0)]
    [[], [], [('cat', True)], [], [('cat', False)]]
    """

    def __init__(self, rule: Debounce) -> None:
        self._rule = rule
        self._mask = (1 << rule.window) - 1
        self._seen: dict[str, _Seen] = {}

    def step(self, labels: set[str]) -> list[tuple[str, bool]]:
        """Take the labels of one frame; return (label, became present) for each change, by label."""
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
    """Tells when the one label of whole frames changes for good.

    >>> state = State(Debounce(appear=2, window=3))
    >>> [state.step(label) for label in ("walk", "walk", "run", "walk", "run")]
    [None, ('', 'walk'), None, None, ('walk', 'run')]
    """

    def __init__(self, rule: Debounce) -> None:
        self._rule = rule
        self._recent: deque[str] = deque(maxlen=rule.window)
        self.current = ""

    def step(self, label: str) -> tuple[str, str] | None:
        """Take the best label of one frame ('' for none); return (before, after) on a change.

        It changes to the label of this frame, once ``appear`` of the last ``window`` frames have it.
        """
        self._recent.append(label)
        if label == self.current or self._recent.count(label) < self._rule.appear:
            return None
        before, self.current = self.current, label
        return before, label


class EventMaker:
    """Turns predictions, frame by frame, into events. Not for two threads at once."""

    def __init__(self, rule: Debounce) -> None:
        self._presence, self._state = Presence(rule), State(rule)

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
                return (_event("changed", change[1], items, stamp, previous=change[0]),)
        return ()

    def _presences(self, prediction: Prediction, kind: str, stamp: dict[str, int]) -> tuple[Event, ...]:
        found: dict[str, list[Item]] = {}
        for item in prediction.items:
            if not (
                kind == "started" and item.index == 0
            ):  # 'normal' and 'silence' are the absence of something
                found.setdefault(item.label, []).append(item)
        starts, ends = _KINDS[kind]
        return tuple(
            _event(starts if is_present else ends, label, found.get(label, []), stamp)
            for label, is_present in self._presence.step(set(found))
        )


def _event(
    kind: EventKind, label: str, items: list[Item], stamp: dict[str, int], previous: str = ""
) -> Event:
    best = items[0] if items else None
    return Event(
        kind=kind,
        label=label,
        previous=previous,
        count=len(items),
        score=best.score if best else 0.0,
        box=best.box if best else None,
        value=best.value if best else None,
        **stamp,
    )
