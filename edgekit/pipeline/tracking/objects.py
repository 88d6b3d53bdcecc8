"""What zones and lines see of a track: where it is now, whether it moves, how fast."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from edgekit.core.ports import Frame
from edgekit.pipeline.tracking.geometry import Ground, Point
from edgekit.pipeline.tracking.tables import TrackTable
from edgekit.pipeline.tracking.tracker import Track

SPEED_S = 1.0
"""Over which time a speed is taken: less is noise of the boxes."""
MAX_STEPS = 64
STILL_SHARE = 0.5
"""Within this share of its side around one point an object stands still; boxes of one jitter by a tenth."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a frame was captured. ``time_s`` is the recording's own time where it has one."""

    seq: int
    time_s: float
    captured_ns: int
    captured_unix_ms: int

    @classmethod
    def of(cls, frame: Frame) -> Moment:
        """Return a frame's moment."""
        time_s = frame.meta.get("media_s")
        if time_s is None:
            time_s = frame.captured_ns / 1e9
        return cls(frame.seq, time_s, frame.captured_ns, frame.captured_unix_ms)


class Object:
    """One track with its way through the picture, in heights of it.

    Args:
        key: Unique in the run, also before the track is confirmed.
        track: The track.
        table: The settings.
        now: The first frame that had it.
    """

    def __init__(self, key: int, track: Track, table: TrackTable, now: Moment) -> None:
        self.key, self.id, self._track, self._table = key, "", track, table
        self.first = self.seen = now
        self.is_new = True
        self.is_still: bool | None = None
        """Not known at first."""
        self._rest: tuple[Point, float] = (self._at("centre"), now.time_s)
        self._steps: deque[tuple[float, Point]] = deque(maxlen=MAX_STEPS)
        self._note(now)

    @property
    def is_confirmed(self) -> bool:
        """Whether it counts."""
        return self._track.number is not None

    @property
    def track(self) -> Track:
        """Its track."""
        return self._track

    @property
    def label(self) -> str:
        """What it is."""
        return self._track.label

    @property
    def margin(self) -> float:
        """How far beyond an edge its anchor has passed it."""
        return self._table.margin * self._track.side

    def anchor(self, kind: str | None = None) -> Point:
        """Return the point that stands for it."""
        return self._at(kind or self._table.anchor)

    def _at(self, kind: str) -> Point:
        left, top, right, bottom = self._track.box
        return (left + right) / 2, {"centre": (top + bottom) / 2, "bottom": bottom, "top": top}[kind]

    def saw(self, now: Moment) -> None:
        """Take its place in another frame."""
        self.seen, self.is_new = now, False
        self._note(now)
        point, since_s = self._rest
        centre = self._at("centre")
        if math.dist(centre, point) > STILL_SHARE * self._track.side:
            self._rest, self.is_still = (centre, now.time_s), False
        elif now.time_s - since_s >= self._table.still_s:
            self.is_still = True

    def _note(self, now: Moment) -> None:
        self._steps.append((now.time_s, self._at("bottom")))
        while len(self._steps) > 2 and now.time_s - self._steps[1][0] >= SPEED_S:
            self._steps.popleft()

    def speed_m_s(self, ground: Ground, aspect: float) -> float | None:
        """Return its speed on the ground in the last second; None if it was seen in one frame only."""
        (began_s, start), (ended_s, end) = self._steps[0], self._steps[-1]
        if ended_s <= began_s:
            return None
        places = [ground.metres((x / aspect, y)) for x, y in (start, end)]
        return math.dist(*places) / (ended_s - began_s)
