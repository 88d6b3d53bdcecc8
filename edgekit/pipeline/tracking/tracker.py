"""ByteTrack: boxes of one frame join the tracks of those before, the weak boxes too.

Source: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (arXiv
2110.06864), algorithm 1, written from the paper. Beyond it: labels, time in seconds, and ``rejoin``.

All positions are in heights of the picture, so that a change of its resolution changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Box, Item
from edgekit.pipeline.tracking.assign import Floats, Pairs, assign
from edgekit.pipeline.tracking.kalman import Boxes, measured_of
from edgekit.pipeline.tracking.tables import TrackTable

Ints = NDArray[np.intp]

GATE = 9.4877
"""Source: Wojke et al. (arXiv 1703.07402), 2.2: the 95 % quantile of chi-square for four measurements."""
MAX_TRACKS = 300
"""As many as a frame has items."""
MAX_STEP_FRAMES = 30.0


@dataclass(slots=True)
class Track:
    """One object. ``number`` is None until it is confirmed; ``votes`` are the scores of each label."""

    group: str
    first_s: float
    seen_s: float
    item: Item
    number: int | None = None
    hits: int = 1
    is_lost: bool = False
    votes: dict[str, float] = field(default_factory=dict)
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Where it was seen last, in heights of the picture: the filter's box would overshoot where one stops."""

    @property
    def label(self) -> str:
        """The label that most of its boxes have, by their scores."""
        return max(self.votes, key=self.votes.__getitem__)

    @property
    def side(self) -> float:
        """The square root of the box's area."""
        left, top, right, bottom = self.box
        return float(max((right - left) * (bottom - top), 0.0) ** 0.5)

    def saw(self, item: Item, corners: Floats, time_s: float) -> None:
        """Add a box."""
        left, top, right, bottom = corners.tolist()
        self.item, self.box, self.seen_s, self.is_lost = item, (left, top, right, bottom), time_s, False
        self.votes[item.label] = self.votes.get(item.label, 0.0) + (item.score or 0.0)


class Tracker:
    """Follows boxes from frame to frame.

    Args:
        table: The settings.
    """

    def __init__(self, table: TrackTable) -> None:
        self._table = table
        self._groups = {label: group[0] for group in table.alike for label in group}
        self._boxes = Boxes()
        self.tracks: list[Track] = []
        """Those that live: seen in the last frame, or lost; confirmed, or not yet. In the filter's order."""
        self.confirmed = self.rejoined = 0

    def step(
        self, items: Sequence[Item], boxes: Floats, threshold: float, time_s: float, frames: float
    ) -> tuple[dict[int, Track], list[Track]]:
        """Take one frame's boxes.

        Args:
            items: The frame's items, weak ones too.
            boxes: Their boxes, shape (len(items), 4): left, top, right, bottom in heights of the picture; NaN
                for an item that is not to be followed.
            threshold: The score from which a box is a strong one, unless the table says so.
            time_s: When the frame was captured.
            frames: How many frames after the last one it is.

        Returns:
            The track of each item that has one, by the item's index; and the tracks that ended.
        """
        table = self._table
        high = threshold if table.high_score is None else table.high_score
        scores = np.array([item.score or 0.0 for item in items])
        is_followed = np.isfinite(boxes).all(axis=1) & (scores >= min(table.low_score, high))
        strong = np.flatnonzero(is_followed & (scores >= high))
        weak = np.flatnonzero(is_followed & (scores < high))
        self._boxes.advance(min(max(frames, 1.0), MAX_STEP_FRAMES))
        matched = self._associate(items, boxes, strong, weak)
        found = self._correct(items, boxes, matched, time_s)
        new_score = high if table.new_score is None else table.new_score
        fresh = [int(i) for i in strong if int(i) not in found and scores[i] >= new_score]
        ended = self._end(set(matched), time_s)
        self._begin(items, boxes, fresh, found, time_s)
        self._confirm()
        return found, ended

    def carry(self, frames: float, height: float) -> list[tuple[Track, Box]]:
        """Move on over frames without boxes; return the confirmed tracks that are not lost, and their boxes.

        Args:
            frames: How many frames after the last one it is.
            height: The picture's, in pixels, which the boxes are in.
        """
        self._boxes.advance(min(max(frames, 1.0), MAX_STEP_FRAMES))
        corners = (self._boxes.corners() * height).tolist()
        return [
            (track, (left, top, right, bottom))
            for track, (left, top, right, bottom) in zip(self.tracks, corners, strict=True)
            if track.number is not None and not track.is_lost
        ]

    # -- association: pairs of a track's row and an item's index

    def _associate(self, items: Sequence[Item], boxes: Floats, strong: Ints, weak: Ints) -> dict[int, int]:
        """Return the item of each track that got one, by rows."""
        table, tracks = self._table, self.tracks
        expected = self._boxes.corners()
        matched: dict[int, int] = {}

        def join(rows: list[int], some: Ints, min_iou: float) -> None:
            taken = set(matched.values())
            free = np.array([i for i in some if int(i) not in taken], np.intp)
            rows = [row for row in rows if row not in matched]
            costs = 1 - iou(expected[rows], boxes[free])
            self._part(costs, rows, items, free)
            matched.update(_named(assign(costs, 1 - min_iou), rows, free))

        sure = [row for row, track in enumerate(tracks) if track.number is not None]
        join(sure, strong, table.min_iou)
        join([row for row in sure if not tracks[row].is_lost], weak, table.min_iou_low)
        unsure = [row for row, track in enumerate(tracks) if track.number is None]
        join(unsure, strong, table.min_iou_new)
        self._rejoin(items, boxes, strong, [row for row in sure if row not in matched], matched)
        return matched

    def _part(self, costs: Floats, rows: list[int], items: Sequence[Item], free: Ints) -> None:
        """Make pairs of different labels impossible."""
        groups = np.array([self._group(items[i].label) for i in free])
        for index, row in enumerate(rows):
            costs[index, groups != self.tracks[row].group] = np.inf

    def _rejoin(
        self, items: Sequence[Item], boxes: Floats, strong: Ints, rows: list[int], matched: dict[int, int]
    ) -> None:
        """Give strong boxes that are left to tracks that are where the filter still deems them possible.

        A box that was hidden, or moves by more than its own size, shares nothing with where its track is
        expected; then it counts how sure the filter is of that place.
        """
        taken = set(matched.values())
        free = np.array([i for i in strong if int(i) not in taken], np.intp)
        if not (self._table.rejoin and rows and len(free)):
            return
        costs = self._boxes.distances(np.array(rows), measured_of(boxes[free]))
        self._part(costs, rows, items, free)
        pairs = _named(assign(costs, GATE), rows, free)
        self.rejoined += len(pairs)
        matched.update(pairs)

    def _group(self, label: str) -> str:
        return self._groups.get(label, self._groups.get("*", label))

    # -- what follows from it

    def _correct(
        self, items: Sequence[Item], boxes: Floats, matched: dict[int, int], time_s: float
    ) -> dict[int, Track]:
        rows, indices = np.array(list(matched), np.intp), np.array(list(matched.values()), np.intp)
        if len(rows):
            self._boxes.correct(rows, measured_of(boxes[indices]))
        found = {}
        for row, index in matched.items():
            track = found[index] = self.tracks[row]
            track.hits += 1
            track.saw(items[index], boxes[index], time_s)
        return found

    def _end(self, seen: set[int], time_s: float) -> list[Track]:
        """Lose what was not seen; return what is gone: unconfirmed at once, others after ``keep_s``."""
        kept: list[int] = []
        ended: list[int] = []
        for row, track in enumerate(self.tracks):
            is_seen = row in seen
            track.is_lost = not is_seen
            is_over = track.number is None or time_s - track.seen_s > self._table.keep_s
            (kept if is_seen or not is_over else ended).append(row)
        tracks = self.tracks
        self.tracks = [tracks[row] for row in kept]
        self._boxes.keep(np.array(kept, np.intp))
        lost = [row for row, track in enumerate(self.tracks) if track.is_lost]
        self._boxes.stop_growing(np.array(lost, np.intp))
        return [tracks[row] for row in ended]

    def _begin(
        self, items: Sequence[Item], boxes: Floats, fresh: list[int], found: dict[int, Track], time_s: float
    ) -> None:
        fresh = fresh[: max(0, MAX_TRACKS - len(self.tracks))]
        for index in fresh:
            item = items[index]
            track = found[index] = Track(self._group(item.label), time_s, time_s, item)
            track.saw(item, boxes[index], time_s)
            self.tracks.append(track)
        if fresh:
            self._boxes.append(measured_of(boxes[fresh]))

    def _confirm(self) -> None:
        for track in self.tracks:
            if track.number is None and track.hits >= self._table.confirm:
                self.confirmed += 1
                track.number = self.confirmed


def iou(one: Floats, other: Floats) -> Floats:
    """Return the intersection over union of boxes, shapes (n, 4) and (m, 4), as (n, m).

    >>> iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (one, other)]
    whole: Floats = shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)
    return whole


def _named(pairs: Pairs, rows: list[int], indices: Ints) -> dict[int, int]:
    return {rows[row]: int(indices[column]) for row, column in pairs}
