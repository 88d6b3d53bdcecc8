"""Single values of a pipeline for machines: what a coil, a register, a node or a line of a chip shows.

The newest value of each point is written when it changes, in a thread of its own. What may not leave by
``[privacy] egress`` is not written, and what is written is in the ledger.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol

import msgspec

from edgekit.core.egress import ENVELOPE, class_of
from edgekit.core.errors import ConfigError, LinkError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.present import Present

logger = logging.getLogger(__name__)

MAX_POINTS = 100
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
CLOSE_S = 5.0
_FRAMES_MODULO = 1 << 16
"""What the smallest register holds."""


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one value shows.

    ``show``: ``present`` is 1 while a ``label`` (empty: any) is there, by events, else 0; ``count`` how many
    are; ``line`` how many crossed the line of the name ``place``, in one ``direction`` and of one ``label``
    if they are given; ``zone`` what the zone ``place`` counts; ``value`` the number of the best item;
    ``frames`` a number from 0 to 65,535 that changes with each frame, for a watchdog.
    """

    show: Literal["present", "count", "line", "zone", "value", "frames"] = "present"
    label: str = ""
    place: str = ""
    direction: str = ""

    def problems(self) -> Iterator[str]:
        """Report keys that do not go together."""
        if (self.show in ("line", "zone")) != bool(self.place):
            yield f"place: want the name of a line or zone with show 'line' or 'zone', got {self.place!r}"
        if self.direction and self.show != "line":
            yield f"direction: want it with show 'line', got {self.direction!r}"
        if self.label and self.show in ("zone", "value", "frames"):
            yield f"label: want it with show 'present', 'count' or 'line', got {self.label!r}"


class PointOptions(Options, frozen=True, kw_only=True):
    """What every ``[[sink]]`` of points has: all values are written again each ``every_s`` (0: never)."""

    every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    points: tuple[Any, ...] = ()

    def problems(self) -> Iterable[str]:
        """Report points that are missing, too many, or wrong."""
        if not 1 <= len(self.points) <= MAX_POINTS:
            yield f"points: want 1 to {MAX_POINTS}, got {len(self.points)}"
        for index, point in enumerate(self.points):
            yield from (f"points[{index}].{problem}" for problem in point.problems())


class Link(Protocol):
    """A machine's own protocol. What fails raises ``LinkError``."""

    def open(self) -> None:
        """Connect."""

    def write(self, number: int, value: float) -> None:
        """Write the value of the point with this number, from 0."""

    def close(self) -> None:
        """End the connection; safe to call twice."""


class Signals:
    """What the points show now."""

    def __init__(self) -> None:
        self._present = Present()
        self._counts: dict[str, int] = {}
        self._crossed: Counter[tuple[str, str, str]] = Counter()
        """By line, direction and label."""
        self._zones: dict[str, int] = {}
        self._value = 0.0
        self._frames = 0

    def take(self, result: Result) -> None:
        """Take a frame's result."""
        for event in result.events:
            self._present.note(event)
            if event.line:
                self._crossed[event.line, event.direction, event.label] += 1
            if event.zone:
                self._zones[event.zone] = event.count
        self._counts = self._present.counts(result.prediction)
        best = result.prediction.best
        if best is not None and best.value is not None:
            self._value = best.value
        self._frames = (self._frames + 1) % _FRAMES_MODULO

    def end(self) -> None:
        """Note that nobody looks any more: nothing is there."""
        self._counts = {}

    def document(self, point: Point) -> dict[str, Any]:
        """Return a point's value, and what it says, by fields that the egress gate knows; the value last."""
        if point.show == "frames":
            return {"seq": self._frames}
        if point.show == "value":
            return {"value": self._value}
        if point.show == "zone":
            return {"zone": point.place, "count": self._zones.get(point.place, 0)}
        if point.show == "line":
            wanted = (point.place, point.direction, point.label)
            count = sum(
                number
                for key, number in self._crossed.items()
                if all(want in ("", have) for want, have in zip(wanted, key, strict=True))
            )
            return {"line": point.place, "count": count}
        count = self._counts.get(point.label, 0) if point.label else sum(self._counts.values())
        count = min(1, count) if point.show == "present" else count
        return {"label": point.label, "count": count} if point.label else {"total": count}


class PointSink:
    """Writes points through a link; a subclass names it.

    Raises:
        ConfigError: ``[privacy] egress`` lets a point's value not leave, or nothing here has a way out.
    """

    kind: ClassVar[str]
    leaves_device = True

    def __init__(self, options: PointOptions, context: SinkContext, link: Link, destination: str) -> None:
        if context.direct is None:
            raise ConfigError(f"sink {self.kind!r}: nothing here has a way out", hint="run it by edgekit run")
        self._points: Sequence[Point] = options.points
        self._signals = Signals()
        _check_egress(self.kind, self._documents(), context.egress)
        self._writer = PointWriter(f"{self.kind} {destination}", link, options.every_s)
        self._way = context.direct(destination, self._writer.state)
        self._writer.start(self._way.permit)

    def _documents(self) -> list[dict[str, Any]]:
        return [self._signals.document(point) for point in self._points]

    def write(self, result: Result) -> None:
        """Hand over the newest values, without waiting."""
        self._signals.take(result)
        self._writer.put(self._documents())

    def close(self) -> None:
        """Set what shows presence and counts to 0, wait a while for it, and end; safe to call twice."""
        self._signals.end()
        self._writer.close(self._documents())
        self._way.close()


def _check_egress(kind: str, documents: Sequence[Mapping[str, Any]], egress: Sequence[str]) -> None:
    for number, document in enumerate(documents):
        missing = {class_of(field) for field in document} - {ENVELOPE, *egress}
        if missing:
            raise ConfigError(
                f"sink {kind!r}: points[{number}]: want {', '.join(sorted(missing))} in [privacy] egress"
            )


class PointWriter:
    """Writes the newest values to a link, in a thread; connects again after a fault, with growing waits."""

    def __init__(self, name: str, link: Link, every_s: float) -> None:
        self._name, self._link, self._every_s = name, link, every_s
        self._changed = threading.Condition()
        self._latest: list[Mapping[str, Any]] = []
        self._ends: list[Mapping[str, Any]] = []
        """What the points show from the end on, once the latest values are written."""
        self._written: dict[int, Mapping[str, Any]] = {}
        self._is_ending = self._is_open = False
        self._sent = 0
        self._problem = self._logged = ""
        self._thread = threading.Thread(target=self._run, name=f"points-{name}", daemon=True)

    def start(self, permit: Any) -> None:
        """Start the thread; ``permit(document)`` returns what may leave of it."""
        self._permit = permit
        self._thread.start()

    def put(self, documents: list[dict[str, Any]]) -> None:
        """Hand over the newest values; older ones that were not written are forgotten."""
        with self._changed:
            if documents != self._latest:
                self._latest = list(documents)
                self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """Return the counts of values, as of the brokers of other sinks."""
        with self._changed:
            return {
                "is_connected": self._is_open,
                "sent": self._sent,
                "unsent": len(self._due()),
                "dropped": 0,
                "refused": 0,
                "problem": self._problem,
            }

    def close(self, documents: list[dict[str, Any]]) -> None:
        """Write the newest values, then those of the end, if that is possible soon.

        A run may be over before its machine has answered for the first time.
        """
        with self._changed:
            self._ends = list(documents) if self._latest else []
            self._is_ending = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    # -- its own thread

    def _due(self) -> list[int]:
        return [n for n, document in enumerate(self._latest) if self._written.get(n) != document]

    def _run(self) -> None:
        attempt, again_s = 0, time.monotonic() + (self._every_s or 0)
        while not self._is_over():
            try:
                if not self._is_open:
                    self._link.open()
                    self._is_open, self._problem = True, ""
                self._write_due()
                attempt = 0
                self._rest(again_s - time.monotonic() if self._every_s else None, for_change=True)
            except LinkError as fault:
                self._lost(fault)
                if self._is_ending:
                    break
                self._rest(RETRY_S[min(attempt, len(RETRY_S) - 1)], for_change=False)
                attempt += 1
            if self._every_s and time.monotonic() >= again_s:
                again_s = time.monotonic() + self._every_s
                with self._changed:
                    self._written.clear()
        self._link.close()

    def _is_over(self) -> bool:
        with self._changed:
            if self._is_ending and self._ends and not self._due():
                self._latest, self._ends = self._ends, []
            return self._is_ending and not self._due()

    def _write_due(self) -> None:
        with self._changed:
            due = [(number, self._latest[number]) for number in self._due()]
        for number, document in due:
            field = list(document)[-1]
            permitted = self._permit(document)
            if field in permitted:  # checked at the start; the gate has the last word
                self._link.write(number, float(permitted[field]))
            with self._changed:
                self._written[number] = document
                self._sent += 1

    def _lost(self, fault: LinkError) -> None:
        self._link.close()
        with self._changed:
            if fault.message != self._logged:
                self._logged = fault.message
                logger.warning("%s does not take values: %s", self._name, fault)
            self._is_open, self._problem = False, fault.message
            self._written.clear()

    def _rest(self, timeout_s: float | None, *, for_change: bool) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_ending or (for_change and bool(self._due())),
                None if timeout_s is None else max(0.0, timeout_s),
            )
