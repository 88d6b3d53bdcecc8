"""What two pipelines saw in the same frames, compared: events, items frame by frame, counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.decoders.nms import overlap
from edgekit.pipeline.pre import vision

SAME_IOU = 0.5
"""Two boxes of one label that overlap by this much are the same object, as in PASCAL VOC."""
SAME_S = 1.0
"""Two events of one kind and object are the same if no more time lies between them."""
EVENT_WEIGHT = 3
"""How many items an event counts for, where the frame with the most differences is looked for."""
COLORS = ((230, 140, 30), (30, 110, 240))
"""Of run A and run B in a picture, BGR: blue and orange."""

_Key = tuple[str, ...]
_KEY = ("kind", "stage", "label", "previous", "zone", "line", "direction")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one pipeline found in one frame; ``events`` are documents of events."""

    seq: int
    media_s: float
    prediction: Prediction
    events: Sequence[Mapping[str, Any]] = ()


class At(msgspec.Struct, frozen=True):
    """Where an event is in a recording: the frame's number, and its time in seconds; None if not known."""

    seq: int
    media_s: float | None


class EventRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event: its frame in each of the two runs, None where that run has no such event."""

    kind: str
    stage: str = ""
    label: str = ""
    previous: str = ""
    zone: str = ""
    line: str = ""
    direction: str = ""
    a: At | None
    b: At | None

    @property
    def differs(self) -> bool:
        """Whether it is in one run alone, or not in the same frame."""
        if self.a is None or self.b is None:
            return True
        return self.a.seq != self.b.seq and None not in (self.a.media_s, self.b.media_s)


class Both(msgspec.Struct):
    """How many of something are in run A, in run B, and in one of them alone."""

    a: int = 0
    b: int = 0
    only_a: int = 0
    only_b: int = 0

    def add(self, in_both: int, only_a: int, only_b: int) -> None:
        """Count some more."""
        self.a += in_both + only_a
        self.b += in_both + only_b
        self.only_a += only_a
        self.only_b += only_b


@dataclass
class Differences:
    """What differs between two runs.

    ``events``: every event of either run, by time. ``items``: by label, frame by frame. ``frames``: how many
    either run looked at; ``differing``: the numbers of those in which an item or an event is in one run
    alone. ``most``: the frame, looked at by both, with the most of that; None where nothing differs.
    """

    events: list[EventRow]
    items: dict[str, Both] = field(default_factory=dict)
    frames: int = 0
    differing: list[int] = field(default_factory=list)
    most: int | None = None

    @property
    def differ(self) -> bool:
        """Whether anything differs."""
        return bool(self.differing) or any(row.differs for row in self.events)

    def kinds(self) -> dict[str, Both]:
        """Return how many events of each kind there are."""
        found: defaultdict[str, Both] = defaultdict(Both)
        for row in self.events:
            found[row.kind].add(row.a is not None and row.b is not None, row.b is None, row.a is None)
        return dict(sorted(found.items()))


def compare(a: Mapping[int, Seen], b: Mapping[int, Seen]) -> Differences:
    """Return what differs between two runs over one recording, each by the number of the frame.

    A frame that a run did not look at (``every``, ``motion``) has no items there.
    """
    found = Differences(pair_events(_timed(a.values()), _timed(b.values())))
    items: defaultdict[str, Both] = defaultdict(Both)
    weights = Counter(
        at.seq
        for row in found.events
        if row.a is None or row.b is None
        for at in (row.a, row.b)
        if at is not None
        for _ in range(EVENT_WEIGHT)
    )
    seqs = sorted(a.keys() | b.keys())
    for seq in seqs:
        first, second = (run[seq].prediction.items if seq in run else () for run in (a, b))
        for name, rows in _by_name(first, second).items():
            same = same_items(*rows)
            only = [len(side) - same for side in rows]
            items[name].add(same, *only)
            weights[seq] += sum(only)
    found.items, found.frames = dict(sorted(items.items())), len(seqs)
    found.differing = [seq for seq in seqs if weights[seq]]
    found.most = max(
        (seq for seq in found.differing if seq in a and seq in b),
        key=lambda seq: (weights[seq], -seq),
        default=None,
    )
    return found


def _by_name(first: Sequence[Item], second: Sequence[Item]) -> dict[str, tuple[list[Item], list[Item]]]:
    """Return the items of two runs by stage and label."""
    found: defaultdict[str, tuple[list[Item], list[Item]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((first, second)):
        for item in items:
            found[f"{item.stage}: {item.label}" if item.stage else item.label][side].append(item)
    return found


def same_items(first: Sequence[Item], second: Sequence[Item]) -> int:
    """Return how many items of one label are in both lists, the best overlap first.

    Those without a position in the picture are the same if their texts are.

    >>> box = Item(label="cat", box=(0, 0, 10, 10))
    >>> same_items([box, box], [Item(label="cat", box=(1, 0, 10, 10))])
    1
    """
    placed = [[item for item in items if item.extent() is not None] for items in (first, second)]
    texts = [Counter(item.text for item in items if item.extent() is None) for items in (first, second)]
    same = (texts[0] & texts[1]).total()
    if not all(placed):
        return same
    rows, columns = (np.array([item.extent() for item in items], np.float32).T for items in placed)
    shares = overlap(rows[:, :, None], columns[:, None, :])
    while shares.size and shares.max() >= SAME_IOU:
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        shares[row], shares[:, column] = 0, 0
        same += 1
    return same


def _timed(run: Iterable[Seen]) -> list[tuple[Mapping[str, Any], At]]:
    return [(event, At(seen.seq, round(seen.media_s, 3))) for seen in run for event in seen.events]


def pair_events(
    a: Iterable[tuple[Mapping[str, Any], At]], b: Iterable[tuple[Mapping[str, Any], At]]
) -> list[EventRow]:
    """Return the events of two runs, those that are the same in one row; by time.

    Args:
        a: The events of a run, oldest first, each with its frame.
        b: The other's. One whose time is not known is the same as the next of its kind, whenever it was.
    """
    sides: tuple[defaultdict[_Key, list[At]], ...] = (defaultdict(list), defaultdict(list))
    for side, events in zip(sides, (a, b), strict=True):
        for event, at in events:
            side[tuple(str(event.get(name, "")) for name in _KEY)].append(at)
    rows = [
        EventRow(**dict(zip(_KEY, key, strict=True)), a=one, b=other)
        for key in sides[0].keys() | sides[1].keys()
        for one, other in _pairs(sides[0][key], sides[1][key])
    ]
    return sorted(rows, key=_when)


def _when(row: EventRow) -> tuple[float, str, str]:
    times = [at.media_s for at in (row.a, row.b) if at is not None and at.media_s is not None]
    return (min(times, default=0.0), row.kind, row.label)


def _pairs(a: list[At], b: list[At]) -> list[tuple[At | None, At | None]]:
    """Return two lists of moments merged; what is near enough is one pair."""
    found: list[tuple[At | None, At | None]] = []
    first, second = 0, 0
    while first < len(a) and second < len(b):
        one, other = a[first], b[second]
        later_s = 0.0 if one.media_s is None or other.media_s is None else other.media_s - one.media_s
        if abs(later_s) <= SAME_S:
            found.append((one, other))
            first, second = first + 1, second + 1
        elif later_s > 0:
            found.append((one, None))
            first += 1
        else:
            found.append((None, other))
            second += 1
    return [*found, *((at, None) for at in a[first:]), *((None, at) for at in b[second:])]


def draw_both(pixels: NDArray[np.uint8], a: Sequence[Item], b: Sequence[Item]) -> NDArray[np.uint8]:
    """Return a copy of a picture with the items of both runs, A's in blue and B's in orange.

    Args:
        pixels: Shape (height, width, 3), uint8, BGR.
        a: Items of run A; those without a position are lines of text at the top.
        b: Items of run B, with their captions below their boxes.
    """
    cv2, lines = vision(), 0
    out: NDArray[np.uint8] = pixels.copy()
    for name, items, color in zip("AB", (a, b), COLORS, strict=True):
        for item in items:
            score = "" if item.score is None else f" {item.score:.2f}"
            lines += (extent := item.extent()) is None
            at = (4, 16 * lines)
            if extent is not None:
                left, top, right, bottom = (round(edge) for edge in extent)
                cv2.rectangle(out, (left, top), (right, bottom), color, 2)
                at = (left, max(12, top - 4) if name == "A" else min(out.shape[0] - 4, bottom + 14))
            text = f"{name} {item.text or item.label}{score}"
            for ink, thick in (((0, 0, 0), 3), (color, 1)):  # a dark edge, to be read on any picture
                cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, thick, cv2.LINE_AA)
    return out
