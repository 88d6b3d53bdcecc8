"""Counters of a pipeline, or a stage of it, for each bundle, so that a trial is judged on its own frames."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from edgekit.agent.ipc import EventOut, Progress, Running, add_label
from edgekit.core.ports import Result
from edgekit.core.sketch import Histogram
from edgekit.core.spec import Item
from edgekit.core.wire import EventRecord
from edgekit.pipeline.events import Event
from edgekit.pipeline.picture import thumbnail
from edgekit.pipeline.receipt import event_keys
from edgekit.pipeline.stats import Tally
from edgekit.pipeline.timed import Timed

_OWN_FIELDS = {"label", "score", "stage"}
_ITEM_FIELDS = sorted(set(Item.__struct_fields__) & set(EventRecord.__struct_fields__) - _OWN_FIELDS)
_PLACE_FIELDS = ("zone", "line", "direction", "dwell_s", "speed_m_s")


class BundleCounters:
    """Counts of a pipeline or a later stage on one variant, which ``running`` describes.

    They are since the last ``take``. The loop writes, the reporter's thread reads.
    """

    def __init__(self, running: Running) -> None:
        self.running = running
        self._lock = threading.Lock()
        self._clear()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted since the last ``take``."""
        return not (self.frames or self.errors)

    def _clear(self) -> None:
        self.frames = self.errors = self.events = self.items = 0
        self.infer = Histogram()
        self.latency = Histogram()
        self.labels: dict[str, int] = {}

    def failed(self) -> None:
        """Count a frame on which inference failed."""
        with self._lock:
            self.errors += 1

    def finished(self, result: Result) -> None:
        """Count a finished frame."""
        with self._lock:
            self.frames += 1
            self.events += len(result.events)
            if "infer" in result.stage_ms:
                self.infer.add(result.stage_ms["infer"])
            self.latency.add(result.stage_ms["latency"])
            for item in result.prediction.items:
                self.items += not item.stage
                if item.label and not item.stage:
                    add_label(self.labels, item.label)

    def ran(self, found: Sequence[Timed]) -> None:
        """Count a frame on which a later stage ran, with what it found in each crop."""
        with self._lock:
            self.frames += 1
            for timed in found:
                self.infer.add(timed.infer_ms)
                for item in timed.prediction.items:
                    self.items += 1
                    if item.label:
                        add_label(self.labels, item.label)

    def take(self, pipeline: str, period_s: float, stage: str = "") -> Progress:
        """Return the counts and reset them."""
        with self._lock:
            progress = Progress(
                pipeline=pipeline,
                stage=stage,
                period_s=period_s,
                running=self.running,
                frames=self.frames,
                errors=self.errors,
                events=self.events,
                items=self.items,
                infer_ms=self.infer.to_wire() if self.infer.count else None,
                latency_ms=self.latency.to_wire() if self.latency.count else None,
                labels=self.labels,
            )
            self._clear()
        return progress


class TallyMarks:
    """Turns the loop's totals into differences."""

    def __init__(self) -> None:
        self._captured = self._dropped = self._failovers = 0

    def since(self, tally: Tally) -> tuple[int, int, int]:
        """Return (captured, dropped, failovers) since the last call."""
        now = (tally.captured, tally.dropped, tally.failovers)
        before = (self._captured, self._dropped, self._failovers)
        self._captured, self._dropped, self._failovers = now
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]


class AgentSink:
    """Counts every result and sends its events to the supervisor; outlives a loop.

    Args:
        counters_of: Returns the counters of the bundle that a result is from.
        send: Sends a message to the supervisor.
        with_pixels: Attach a thumbnail of the frame, already redacted by the loop.
    """

    def __init__(
        self,
        counters_of: Callable[[Result], BundleCounters],
        send: Callable[[Any], None],
        *,
        with_pixels: bool,
    ) -> None:
        self._counters_of, self._send, self._with_pixels = counters_of, send, with_pixels
        self._lock = threading.Lock()
        self._number = time.monotonic_ns()  # no answer to a process before is one to this
        self._held: deque[tuple[int, Callable[[], object]]] = deque()

    def write(self, result: Result) -> None:
        """Count one result and send its events."""
        self._counters_of(result).finished(result)
        if not result.events:
            return
        image = thumbnail(result.frame.data) if self._with_pixels else None
        keys = event_keys(result.pipeline, result.frame, result.events)
        for event, key in zip(result.events, keys, strict=True):
            self._send(
                EventOut(
                    record=_record(result, event, image),
                    key=key,
                    is_again=result.is_again,
                    number=self._hold(result) if key else 0,
                )
            )

    def _hold(self, result: Result) -> int:
        with self._lock:
            self._number += 1
            self._held.append((self._number, result.hold()))
            return self._number

    def kept(self, number: int) -> None:
        """Note that the supervisor keeps the events up to a number; on any thread."""
        released = []
        with self._lock:
            while self._held and self._held[0][0] <= number:
                released.append(self._held.popleft()[1])
        for release in released:
            release()

    def close(self) -> None:
        """Do nothing; there is nothing to free."""


def _record(result: Result, event: Event, image: bytes | None) -> EventRecord:
    item = event.item or Item()
    return EventRecord(
        mono_ns=event.captured_ns,
        unix_ms=event.captured_unix_ms,
        pipeline=result.pipeline,
        model=result.model,
        version=result.version,
        kind=event.kind,
        label=event.label,
        score=item.score or 0.0,
        count=event.count,
        total=event.total,
        id=event.id,
        end_mono_ns=event.end_ns,
        end_unix_ms=event.end_unix_ms,
        start_mono_ns=event.start_ns,
        start_unix_ms=event.start_unix_ms,
        tracks=event.tracks,
        trace_id=result.trace_id,
        stage=event.stage,
        versions=result.versions,
        **{name: getattr(event, name) for name in _PLACE_FIELDS},
        image=image,
        **{name: getattr(item, name) for name in _ITEM_FIELDS},
    )
