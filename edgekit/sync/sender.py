"""Which batches to send when: a bounded window, and go-back-N from the watermark when it stalls."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from edgekit.core import wire
from edgekit.sync.outbox import Cursor, Outbox

WINDOW = 20
STALL_S = 3.0
MAX_STALL_S = 60.0


class Sender:
    """Decides; it does not send. Used by the link's thread only.

    While the fleet does not answer, each wait is twice the one before (3 s to 60 s) and only one
    batch is tried, so that a fleet that is down does not cost a metered link its quota.
    """

    def __init__(self, outbox: Outbox, window: int = WINDOW, stall_s: float = STALL_S) -> None:
        self._outbox = outbox
        self._window = window
        self._stall_s = stall_s
        self._patience_s = stall_s
        self._cursor = Cursor(0, 0)
        self._flying: deque[int] = deque()
        self._live_after = 0
        self._progress_ns = 0
        self._boot = outbox.boot
        self.counters = dict.fromkeys(("batches", "messages", "resent_after_stall", "acks", "bad_acks"), 0)

    def connected(self, now_ns: int) -> None:
        """Begin again from the watermark; what waited until now is historical."""
        self._live_after = self._outbox.last_seq
        self._patience_s = self._stall_s
        self._go_back(now_ns)

    def _go_back(self, now_ns: int) -> None:
        watermark = self._outbox.watermark
        self._boot = self._outbox.boot
        self._cursor = Cursor(watermark, watermark)
        self._flying.clear()
        self._progress_ns = now_ns

    def acknowledged(self, ack: wire.Ack, now_ns: int) -> None:
        """Take the fleet's watermark."""
        before = self._outbox.watermark
        if not self._outbox.acknowledge(ack.boot, ack.watermark):
            self.counters["bad_acks"] += 1
            return
        self.counters["acks"] += 1
        watermark = self._outbox.watermark
        self._flying = deque(last for last in self._flying if last > watermark)
        if watermark > before:
            self._progress_ns = now_ns
            self._patience_s = self._stall_s

    def take(self, now_ns: int) -> Iterator[tuple[str, bytes, list[bytes]]]:
        """Yield (topic leaf, body, the records in it) of what to send now."""
        if self._boot != self._outbox.boot:  # the outbox began a new life
            self._go_back(now_ns)
        window = self._window if self._patience_s == self._stall_s else 1
        if self._flying and now_ns - self._progress_ns >= self._patience_s * 1e9:
            self.counters["resent_after_stall"] += len(self._flying)
            self._patience_s = min(2 * self._patience_s, MAX_STALL_S)
            window = 1
            self._go_back(now_ns)
        room = window - len(self._flying)
        if room <= 0:
            return
        if not self._flying:
            self._progress_ns = now_ns
        for parcel in self._outbox.batches(self._cursor, room, live_after=self._live_after):
            at = self._cursor
            self._cursor = Cursor(parcel.last, at.m) if parcel.leaf == "ev" else Cursor(at.ev, parcel.last)
            self._flying.append(parcel.last)
            self.counters["batches"] += 1
            self.counters["messages"] += len(parcel.batch.items)
            yield parcel.leaf, wire.encode(parcel.batch), [bytes(item) for item in parcel.batch.items]

    def next_look_s(self, now_ns: int) -> float | None:
        """Return when ``take`` should be asked again though nothing happens; None: no need."""
        if not self._flying:
            return None
        return max(0.0, self._patience_s - (now_ns - self._progress_ns) / 1e9)
