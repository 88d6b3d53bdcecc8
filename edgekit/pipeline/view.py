"""What the device's page shows of one pipeline: a sink that keeps the newest frame while somebody watches.

The loop calls ``write`` after redaction, so nothing here has a pixel that must be hidden. ``write`` only
keeps a reference and wakes whoever waits; the picture is encoded in the watcher's thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from edgekit.core.ports import Result
from edgekit.pipeline.sinks.document import event_documents, result_document

WATCHED_S = 5.0
"""A frame is kept for this long after it was last asked for: a browser asks again within a second."""
_EVENTS = 200
_RECENT = 128


class ViewSink:
    """Keeps the newest result, the last 200 events and the figures of the last 128 frames. Thread-safe.

    ``number`` counts the frames of this sink from 1: a source that is opened again begins at ``seq`` 0.
    """

    def __init__(self) -> None:
        self.number = self.event_number = self._dropped = 0
        self._latest: Result | None = None
        self._last_seq = -1
        self._watched_until_s = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_EVENTS)
        self._running: tuple[str, ...] = ()
        self._wakes: tuple[Callable[[], object], ...] = ()
        self._lock = threading.Lock()

    def write(self, result: Result) -> None:
        """Keep the result where somebody watches, its events and figures in any case."""
        now_s, seq = time.monotonic(), result.frame.seq
        with self._lock:
            self._recent.append((now_s, result.stage_ms["latency"]))
            self._dropped += max(0, seq - self._last_seq - 1)
            self._last_seq = seq  # smaller than before where the source was opened again
            self.number += 1
            self._latest = result if now_s < self._watched_until_s else None
            self._running = (result.model, result.version, result.variant, result.prediction.task)
            for document in event_documents(result) if result.events else ():
                self.event_number += 1
                self._events.append((self.event_number, document))
        for wake in self._wakes:
            wake()

    def close(self) -> None:
        """Forget the picture, and wake whoever waits for another."""
        with self._lock:
            self._latest, self._watched_until_s = None, 0.0
        for wake in self._wakes:
            wake()

    # -- for whoever watches

    @contextlib.contextmanager
    def watched(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have ``wake`` called after each frame, in the pipeline's thread; it must not wait."""
        with self._lock:
            self._wakes += (wake,)
        try:
            yield
        finally:
            with self._lock:
                wakes = list(self._wakes)
                wakes.remove(wake)
                self._wakes = tuple(wakes)

    def latest(self) -> tuple[int, Result] | None:
        """Return the newest result and its number; None until the next frame, if nobody has asked lately."""
        with self._lock:
            self._watched_until_s = time.monotonic() + WATCHED_S
            return None if self._latest is None else (self.number, self._latest)

    def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the kept events with a number above ``after``, oldest first.

        A number that none has yet is of an earlier run, and as good as 0.
        """
        with self._lock:
            first = after if after <= self.event_number else 0
            return [row for row in self._events if row[0] > first]

    def figures(self) -> dict[str, Any]:
        """Return what runs, frames a second, percentiles of the latency in ms, and the counts of frames."""
        with self._lock:
            recent = list(self._recent)
            running = dict(zip(("model", "version", "variant", "task"), self._running, strict=False))
            counts = {"processed": self.number, "dropped": self._dropped}
        latest_s = time.monotonic()
        recent = [row for row in recent if latest_s - row[0] < WATCHED_S]
        span_s = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
        latencies = sorted(latency for _, latency in recent)
        return running | {
            "fps": round((len(recent) - 1) / span_s, 1) if span_s else 0.0,
            "latency_ms": {
                f"p{percent}": round(latencies[(percent * len(latencies) - 1) // 100], 1)
                if latencies
                else None
                for percent in (50, 95)
            },
            "frames": counts,
        }


def frame_document(result: Result) -> dict[str, Any]:
    """Return a result without its picture and events; ``width`` and ``height`` 0 where it is no image."""
    pixels = result.frame.data
    height, width = pixels.shape[:2] if getattr(pixels, "ndim", 0) == 3 else (0, 0)
    document = result_document(result)
    document.pop("events", None)
    return document | {"width": width, "height": height}
