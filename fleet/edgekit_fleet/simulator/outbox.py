"""What a simulated device has not yet had acknowledged: numbered records, sent again from the watermark."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from edgekit.core import wire

WINDOW = 20
MAX_ITEMS = 50
FIRST_WAIT_S, MAX_WAIT_S = 3.0, 180.0
MAX_WAITING = 10_000


@dataclass
class _Waiting:
    seq: int
    leaf: str
    body: bytes
    sent_s: float = 0.0
    is_repeat: bool = False


class Outbox:
    """The records of one device from the watermark on; the same rules as an agent's, in memory.

    Args:
        boot: Its name; another run of the simulator has another.
    """

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.watermark = 0
        self.last_seq = 0
        self.dropped = self.repeated = 0
        self._waiting: deque[_Waiting] = deque()
        self._sent_up_to = 0
        self._progress_s = 0.0
        self._wait_s = FIRST_WAIT_S
        self._announced_s = 0.0

    def put(self, record: wire.Record) -> None:
        """Add a record; beyond 10,000 the newest is dropped and counted."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self.last_seq += 1
        leaf = "m" if isinstance(record, wire.MetricReport) else "ev"
        self._waiting.append(_Waiting(self.last_seq, leaf, wire.encode_record(record)))

    def reconnected(self, now_s: float) -> None:
        """Send everything above the watermark again."""
        self._sent_up_to, self._progress_s, self._wait_s = self.watermark, now_s, FIRST_WAIT_S

    def acknowledged(self, ack: wire.Ack, now_s: float) -> list[float]:
        """Take the fleet's watermark; return how long the records waited that were sent once only."""
        delays: list[float] = []
        if ack.boot != self.boot or not self.watermark < ack.watermark <= self.last_seq:
            return delays
        while self._waiting and self._waiting[0].seq <= ack.watermark:
            record = self._waiting.popleft()
            if record.sent_s and not record.is_repeat:
                delays.append(now_s - record.sent_s)
        self.watermark, self._progress_s, self._wait_s = ack.watermark, now_s, FIRST_WAIT_S
        self._announced_s = ack.delay_ms / 1000
        self._sent_up_to = max(self._sent_up_to, self.watermark)
        return delays

    @property
    def wait_s(self) -> float:
        """How long it waits for the watermark before it sends again."""
        return min(max(self._wait_s, self._announced_s + 1.0), MAX_WAIT_S)

    def is_stalled(self, now_s: float) -> bool:
        """Say whether something was sent so long ago that it is to be sent again."""
        return self._sent_up_to > self.watermark and now_s - self._progress_s > self.wait_s

    def batches(self, now_s: float) -> list[tuple[str, bytes]]:
        """Return (leaf, payload) of what is to be sent now."""
        if self._sent_up_to <= self.watermark:
            self._progress_s = now_s  # nothing is under way: the wait for the watermark begins now
        if not self._waiting:
            return []
        if self.is_stalled(now_s):
            self._wait_s = min(2 * self._wait_s, MAX_WAIT_S)  # one batch again; the fleet may have the others
            self._progress_s = now_s
            return [self._batch([self._waiting[0]], now_s)]
        room = WINDOW * MAX_ITEMS - (self._sent_up_to - self.watermark)
        ready = [record for record in self._waiting if record.seq > self._sent_up_to][: max(room, 0)]
        return [self._batch(part, now_s) for part in _parts(ready)]

    def _batch(self, records: list[_Waiting], now_s: float) -> tuple[str, bytes]:
        for record in records:
            self.repeated += bool(record.sent_s)
            record.is_repeat |= bool(record.sent_s)
            record.sent_s = record.sent_s or now_s
        self._sent_up_to = max(self._sent_up_to, records[-1].seq)
        batch = wire.RawBatch(
            boot=self.boot,
            seq0=records[0].seq,
            items=[msgspec.Raw(record.body) for record in records],
            sent_mono_ns=int(now_s * 1e9),
            lowest=self.watermark + 1,
        )
        return records[0].leaf, wire.encode(batch)


def _parts(records: list[_Waiting]) -> list[list[_Waiting]]:
    """Return runs of one kind, each short enough for a message."""
    parts: list[list[_Waiting]] = []
    for record in records:
        if not parts or parts[-1][0].leaf != record.leaf or len(parts[-1]) >= MAX_ITEMS:
            parts.append([])
        parts[-1].append(record)
    return parts[:WINDOW]
