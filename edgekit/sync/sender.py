"""Decides which batches to send when: a bounded window, repeated from the watermark when it stalls."""

import logging
from collections.abc import Callable, Iterator

import msgspec

from edgekit.core import wire
from edgekit.sync.outbox import Cursor, Outbox, Parcel
from edgekit.sync.retry_timer import RetryTimer

logger = logging.getLogger(__name__)

WINDOW = 20
Packed = tuple[str, bytes, list[bytes]]
"""Topic leaf, body, and the records in it."""


class _Sent(msgspec.Struct):
    """A batch under way; ``is_repeat``: some of it was sent before, so its delay is no sample."""

    leaf: str
    first: int
    last: int
    sent_ns: int
    is_repeat: bool


class Sender:
    """Decides what to send; the link sends it, and calls this on its own thread only.

    When the watermark stalls for the ``RetryTimer``'s wait, only the batch above it is sent again: a slow
    fleet has the others already, and a fleet that is down must not use up a metered link. If the fleet
    acknowledges that batch and stalls again, the others were lost, and everything above the watermark is sent
    again, in a window that doubles with each acknowledgement, up to ``WINDOW`` batches.
    """

    def __init__(self, outbox: Outbox, random: Callable[[], float]) -> None:
        self._outbox = outbox
        self._window = WINDOW
        self._timer = RetryTimer(random)
        self._cursor = self._reached = Cursor(0, 0)
        self._under_way: list[_Sent] = []
        self._live_after = 0
        self._progress_ns = 0
        self._is_probing = self._probe_answered = False
        self._boot = outbox.boot
        self.refusal = ""
        """Why the fleet could not use a message of this device; the last one."""
        self.counters = dict.fromkeys(
            ("batches", "messages", "stalls", "repeated", "acks", "bad_acks", "refused"), 0
        )

    def connected(self, now_ns: int) -> None:
        """Restart from the watermark; what is queued now is historical."""
        self._live_after = self._outbox.last_seq
        self._window = WINDOW
        self._timer.reset()
        self._go_back(now_ns)

    def _go_back(self, now_ns: int) -> None:
        if self._boot != self._outbox.boot:  # the outbox has a new file
            self._boot, self._reached = self._outbox.boot, Cursor(0, 0)
        watermark = self._outbox.watermark
        self._cursor = Cursor(watermark, watermark)
        self._under_way.clear()
        self._progress_ns = now_ns
        self._is_probing = self._probe_answered = False

    def acknowledged(self, ack: wire.Ack, now_ns: int) -> None:
        """Process the fleet's watermark."""
        for reason in ack.refused:
            self.refusal = reason[:500]
            self.counters["refused"] += 1
            logger.warning("the fleet refused a message: %s", self.refusal)
        self._timer.announced(ack.delay_ms / 1000)
        if not ack.boot:  # only a refusal
            return
        before = self._outbox.watermark
        if not self._outbox.acknowledge(ack.boot, ack.watermark):
            self.counters["bad_acks"] += 1
            return
        self.counters["acks"] += 1
        watermark = self._outbox.watermark
        if watermark <= before:
            return
        done = [sent for sent in self._under_way if sent.last <= watermark]
        self._under_way = [sent for sent in self._under_way if sent.last > watermark]
        self._progress_ns = now_ns
        self._probe_answered = self._is_probing
        self._window = min(2 * self._window, WINDOW)
        if done and not any(sent.is_repeat for sent in done):
            # The last one sent counts: an event that overtook metrics is acknowledged only after them.
            self._timer.sample((now_ns - max(sent.sent_ns for sent in done)) / 1e9)
            self._window = WINDOW
            self._is_probing = self._probe_answered = False

    def take(self, now_ns: int) -> Iterator[Packed]:
        """Yield the batches to send now."""
        if self._boot != self._outbox.boot:
            self._go_back(now_ns)
        if self._under_way and now_ns - self._progress_ns >= self._timer.wait_s * 1e9:
            yield from self._stalled(now_ns)
        room = self._window - len(self._under_way)
        if room <= 0:
            return
        if not self._under_way:
            self._progress_ns = now_ns
        for parcel in self._next(room):
            yield self._send(parcel, now_ns)

    def _next(self, room: int) -> Iterator[Parcel]:
        """Yield the next batches, events first, but half of the window is for metrics where there are any.

        Without them a window full of events would stall: the watermark waits for the metrics between events.
        """
        metrics = sum(sent.leaf == "m" for sent in self._under_way)
        kept = self._batches(min(room, self._window // 2 - metrics), events=False)
        events = self._batches(room - len(kept), metrics=False)
        yield from events
        yield from kept
        yield from self._batches(room - len(kept) - len(events), events=False)

    def _batches(self, limit: int, *, events: bool = True, metrics: bool = True) -> list[Parcel]:
        if limit <= 0:
            return []
        end = self._outbox.last_seq
        cursor = Cursor(self._cursor.ev if events else end, self._cursor.m if metrics else end)
        return self._outbox.batches(cursor, limit, live_after=self._live_after)

    def _stalled(self, now_ns: int) -> Iterator[Packed]:
        """Repeat the batch above the watermark; restart from it where the rest was lost."""
        self.counters["stalls"] += 1
        self._timer.double()
        self._window = 1
        self._progress_ns = now_ns
        parcel = self._lowest()
        if self._probe_answered or parcel is None:
            self._go_back(now_ns)
            if parcel is not None:
                yield self._send(parcel, now_ns)
            return
        self._is_probing = True
        for sent in self._under_way:
            sent.is_repeat |= sent.first <= parcel.last
        yield self._encoded(parcel, is_repeat=True)

    def _lowest(self) -> Parcel | None:
        """Return the batch that the watermark waits for, of either topic."""
        start, end = self._outbox.watermark, self._outbox.last_seq
        cursors = (Cursor(start, end), Cursor(end, start))
        parcels = [
            parcel
            for cursor in cursors
            for parcel in self._outbox.batches(cursor, 1, live_after=self._live_after)
        ]
        return min(parcels, key=lambda parcel: parcel.last, default=None)

    def _send(self, parcel: Parcel, now_ns: int) -> Packed:
        leaf, first, last = parcel.leaf, parcel.batch.seq0, parcel.last
        reached: int = getattr(self._reached, leaf)
        is_repeat = first <= reached
        self._cursor = msgspec.structs.replace(self._cursor, **{leaf: last})
        self._reached = msgspec.structs.replace(self._reached, **{leaf: max(reached, last)})
        self._under_way.append(_Sent(leaf, first, last, now_ns, is_repeat))
        return self._encoded(parcel, is_repeat=is_repeat)

    def _encoded(self, parcel: Parcel, *, is_repeat: bool) -> Packed:
        self.counters["batches"] += 1
        self.counters["messages"] += len(parcel.batch.items)
        self.counters["repeated"] += is_repeat
        return parcel.leaf, wire.encode(parcel.batch), [bytes(item) for item in parcel.batch.items]

    def next_look_s(self, now_ns: int) -> float | None:
        """Return the seconds until ``take`` must be called again; None: not before an event."""
        if not self._under_way:
            return None
        return max(0.0, self._timer.wait_s - (now_ns - self._progress_ns) / 1e9)
