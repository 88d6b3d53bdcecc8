"""The durable, bounded, prioritised queue of messages for the fleet.

A message gets its sequence number when it is committed, and only committed messages are sent, so a number
never means two messages. Messages dropped over quota leave holes in the numbers; each is sent as a
``Gap``, so that the fleet's watermark can pass it.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ProtocolError, StorageError
from edgekit.core.ports import Clock, nothing
from edgekit.sync.downsample import pairs
from edgekit.sync.store import DAMAGE, OutboxFile, Row, move_aside

logger = logging.getLogger(__name__)

PRIORITIES: dict[type, int] = {
    wire.UpdateRecord: 0,
    wire.CommandAnswer: 0,
    wire.Alert: 1,
    wire.MeasurementRecord: 2,
    wire.EventRecord: 3,
    wire.MetricReport: 6,
    wire.Gap: 6,
}
MAX_BATCH_ITEMS = 200
MAX_BATCH_BYTES = 256 << 10
MAX_RECORD_BYTES = 512 << 10
_MAX_PENDING = 512
_MAX_PENDING_BYTES = 4 << 20
_ROOM = 0.9  # over quota, free a tenth, so as not to repeat it at each commit
_STEP = 256
_ACK_DELAY_S = 0.5


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """Limits: messages, bytes of bodies, age in running time (a clock that jumps from 1970 drops nothing)."""

    rows: int = 200_000
    bytes: int = 64 << 20
    age_s: float = 30 * 86_400.0


class Cursor(msgspec.Struct, frozen=True):
    """The last sequence number sent, for events and metrics each."""

    ev: int
    m: int


class Parcel(msgspec.Struct, frozen=True):
    """One batch, its topic leaf ("ev" or "m"), and its last sequence number."""

    leaf: str
    batch: wire.RawBatch
    last: int


class Outbox:
    """Keeps messages on disk until the fleet's watermark passes them; for one process at a time.

    Thread-safe. What the disk does not take is dropped, the lowest priority first, and counted in
    ``counters``; a damaged file is moved aside. Messages are committed together within ``commit_delay_s``;
    0 commits each.
    """

    def __init__(
        self, path: Path, clock: Clock, quota: Quota | None = None, *, commit_delay_s: float = 0.05
    ) -> None:
        self._path, self._clock, self._delay_s = path, clock, commit_delay_s
        self._quota = quota or Quota()
        self._lock = threading.Condition(threading.RLock())
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._waiting: list[Callable[[], object]] = []
        self._wakers: list[Callable[[], None]] = []
        self._closed = False
        self._acknowledged = 0
        self._lived_before_s = 0.0
        self.counters = dict.fromkeys(
            ("put", "dropped", "merged", "refused", "storage_errors", "resets", "bad_acks"), 0
        )
        self._opened_ns = clock.monotonic_ns()
        self._file = self._open()
        self._acknowledged = self._file.watermark
        self._thread: threading.Thread | None = None
        if commit_delay_s > 0:
            self._thread = threading.Thread(target=self._commit_loop, name="outbox-commit", daemon=True)
            self._thread.start()

    @property
    def boot(self) -> str:
        """The name of this outbox's life; a new file has a new one."""
        return self._file.boot

    # -- writing

    def put(
        self,
        record: wire.Record,
        priority: int | None = None,
        *,
        key: str = "",
        is_again: bool = False,
        on_kept: Callable[[], object] = nothing,
    ) -> None:
        """Queue a message that passed the egress gate.

        Args:
            record: The message.
            priority: 0 is kept longest, 9 dropped first; None: by kind of record.
            key: What a message has again when it is put again after a kill.
            is_again: Leave it out if one of its key was put; the last ``MOST_KEYS`` are known.
            on_kept: Called on any thread, and at once, when it is on disk or given up.
        """
        body = wire.encode_record(record)
        rank = PRIORITIES[type(record)] if priority is None else priority
        leaf = "m" if isinstance(record, wire.MetricReport) else "ev"
        row = Row(rank, leaf, record.mono_ns, record.unix_ms, self._lived_s(), body, key)
        with self._lock:
            if self._closed or len(body) > MAX_RECORD_BYTES:
                self.counters["refused"] += 1
                on_kept()
                return
            if on_kept is not nothing:
                self._waiting.append(on_kept)
            if is_again and self._has(key):
                if not self._pending:
                    self._say_kept()
                return
            self.counters["put"] += 1
            self._pending.append(row)
            self._pending_bytes += len(body)
            full = len(self._pending) >= _MAX_PENDING or self._pending_bytes >= _MAX_PENDING_BYTES
            if self._delay_s <= 0 or full:
                self._commit()
            else:
                self._lock.notify_all()

    def _has(self, key: str) -> bool:
        if any(row.key == key for row in self._pending):
            return True
        found = []
        self._guarded(lambda: found.append(self._file.has(key)))
        return any(found)

    def _say_kept(self) -> None:
        waiting, self._waiting = self._waiting, []
        for on_kept in waiting:
            on_kept()

    def flush(self) -> bool:
        """Make everything put so far durable; False where the disk failed."""
        with self._lock:
            self._commit()
            return not self._pending

    def acknowledge(self, boot: str, watermark: int) -> bool:
        """Free, at the next commit, what the fleet has; False for another boot or an impossible number."""
        with self._lock:
            if self._closed or boot != self._file.boot or not 0 <= watermark <= self._file.last_seq:
                self.counters["bad_acks"] += 1
                return False
            self._acknowledged = max(self._acknowledged, watermark)
            if self._delay_s <= 0:
                self._commit()
            else:
                self._lock.notify_all()
            return True

    def _commit_loop(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closed or self._has_work())
                # Collect more before committing; ``close`` ends the wait, and ``put`` that for an ack.
                if not self._pending:
                    self._lock.wait_for(lambda: self._closed or bool(self._pending), _ACK_DELAY_S)
                self._lock.wait_for(lambda: self._closed, self._delay_s)
                if self._closed:
                    return
                self._commit()
                if self._has_work():  # the disk failed: retry after a while
                    self._lock.wait_for(lambda: self._closed, 1.0)

    def _has_work(self) -> bool:
        return bool(self._pending) or self._acknowledged > self._file.watermark

    def _commit(self) -> None:
        if self._closed or not self._has_work():
            return
        number = len(self._pending)
        if not (self._guarded(self._append) or self._guarded(lambda: self._append(replaces=True))):
            self._keep_most_important()
            return
        self._pending, self._pending_bytes = [], 0
        self._say_kept()
        self._guarded(self._keep_quota)
        for wake in self._wakers if number else ():
            wake()

    def _append(self, *, replaces: bool = False) -> None:
        """Store what waits; on a full disk in the place of what is less important, and older."""
        self.counters["dropped"] += self._file.append(
            self._pending, self._lived_s(), self._acknowledged, replaces=replaces
        )

    def _keep_most_important(self) -> None:
        rows = self._pending
        kept = sorted(range(len(rows)), key=lambda i: (rows[i].priority, -i))[: _MAX_PENDING // 2]
        while kept and sum(len(rows[i].body) for i in kept) > _MAX_PENDING_BYTES // 2:
            kept.pop()
        self.counters["dropped"] += len(rows) - len(kept)
        self._say_kept()
        self._pending = [rows[i] for i in sorted(kept)]
        self._pending_bytes = sum(len(row.body) for row in self._pending)

    # -- sending

    def batches(self, after: Cursor, limit: int, *, live_after: int = 0) -> list[Parcel]:
        """Return at most ``limit`` batches after ``after``, events first; historical up to ``live_after``."""
        with self._lock:
            self._commit()
            parcels: list[Parcel] = []
            if self._closed or not self._guarded(
                lambda: parcels.extend(self._collect(after, limit, live_after))
            ):
                return []
            if parcels:
                last = max(parcel.last for parcel in parcels)
                self._guarded(lambda: self._file.mark_handed(last))  # a full disk does not stop sending
            return parcels

    def _collect(self, after: Cursor, limit: int, live_after: int) -> Iterator[Parcel]:
        for leaf, start in (("ev", after.ev), ("m", after.m)):
            if limit <= 0:
                return
            seq0, items, size = 0, list[bytes](), 0
            for seq, body in self._file.walk(leaf, max(start, self._acknowledged), limit * MAX_BATCH_ITEMS):
                full = len(items) == MAX_BATCH_ITEMS or size + len(body) > MAX_BATCH_BYTES
                if items and (full or seq != seq0 + len(items)):
                    yield self._parcel(leaf, seq0, items, live_after)
                    limit -= 1
                    if limit <= 0:
                        return
                    items, size = [], 0
                if not items:
                    seq0 = seq
                items.append(body)
                size += len(body)
            if items:
                yield self._parcel(leaf, seq0, items, live_after)
                limit -= 1

    def _parcel(self, leaf: str, seq0: int, items: list[bytes], live_after: int) -> Parcel:
        batch = wire.RawBatch(
            boot=self._file.boot,
            seq0=seq0,
            items=[msgspec.Raw(item) for item in items],
            historical=seq0 <= live_after,
            sent_mono_ns=self._clock.monotonic_ns(),
            sent_unix_ms=self._clock.unix_ms(),
            lowest=self._acknowledged + 1,
        )
        return Parcel(leaf, batch, seq0 + len(items) - 1)

    @property
    def watermark(self) -> int:
        """The last message up to which the fleet has committed all."""
        return self._acknowledged

    @property
    def last_seq(self) -> int:
        """The last message that is durable here."""
        with self._lock:
            return self._file.last_seq

    def next_connection(self) -> int:
        """Return the number of this connection in this life, counted over restarts."""
        with self._lock:
            if not self._guarded(self._file.next_connection):
                self._file.connections += 1  # not durable: an old will may seem newer
            return self._file.connections

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when new messages are durable, on any thread, so it must only signal."""
        with self._lock:
            self._wakers.append(wake)

    def state(self) -> wire.OutboxState:
        """Return the numbers of queued and dropped messages for ``up/reported``."""
        with self._lock:
            waiting = len(self._pending)
            return wire.OutboxState(
                rows=self._file.rows + waiting,
                bytes=self._file.bytes + self._pending_bytes,
                dropped=self.counters["dropped"],
                last_seq=self._file.last_seq,
            )

    # -- quota

    def _keep_quota(self) -> None:
        self.counters["dropped"] += self._file.drop_older(self._lived_s() - self._quota.age_s)
        if self._is_over(1.0):
            self._merge_metrics()
            while self._is_over(_ROOM) and self._drop(max(1, self._file.rows // 20)):
                pass

    def _drop(self, number: int) -> int:
        dropped = self._file.drop_least(number)
        self.counters["dropped"] += dropped
        return dropped

    def _is_over(self, share: float) -> bool:
        return self._file.rows > self._quota.rows * share or self._file.bytes > self._quota.bytes * share

    def _merge_metrics(self) -> None:
        """Merge pairs of unsent metrics, oldest first, until there is room.

        A report that was sent may be counted by the fleet already, and must not be counted twice.
        """
        start = self._file.handed
        while self._is_over(_ROOM):
            page = self._file.metrics(start, _STEP)
            if not page:
                return
            start = page[-1][0]
            merged = pairs((seq, report) for seq, body in page if (report := _metric(body)) is not None)
            self._file.replace((gone, kept, wire.encode_record(report)) for gone, kept, report in merged)
            self.counters["merged"] += len(merged)

    # -- the file, and its failures

    def _lived_s(self) -> float:
        return self._lived_before_s + (self._clock.monotonic_ns() - self._opened_ns) / 1e9

    def _open(self) -> OutboxFile:
        try:
            file = OutboxFile(self._path, self._quota.bytes)
        except sqlite3.OperationalError as cause:
            if "locked" in str(cause):
                raise StorageError(
                    f"outbox {self._path} is open in another process",
                    hint="run one agent per state directory",
                ) from cause
            return self._live_in_memory(cause)  # full or read-only: the file itself may be whole
        except DAMAGE as cause:
            return self._start_over(cause)
        self._lived_before_s = file.lived_s
        return file

    def _live_in_memory(self, cause: Exception) -> OutboxFile:
        logger.error("outbox %s cannot be opened, messages are kept in memory: %s", self._path, cause)
        self.counters["storage_errors"] += 1
        self._alert("outbox.memory", f"the outbox cannot be opened, messages are kept in memory: {cause}")
        return OutboxFile(None, min(self._quota.bytes, _MAX_PENDING_BYTES))

    def _start_over(self, cause: Exception) -> OutboxFile:
        logger.error("outbox %s is damaged and moved aside: %s", self._path, cause)
        self.counters["resets"] += 1
        self._lived_before_s, self._opened_ns = 0.0, self._clock.monotonic_ns()
        try:
            move_aside(self._path)
            fresh = OutboxFile(self._path, self._quota.bytes)
        except (*DAMAGE, OSError) as worse:
            return self._live_in_memory(worse)
        self._alert("outbox.damaged", f"the outbox was damaged and replaced by an empty one: {cause}")
        return fresh

    def _alert(self, code: str, message: str) -> None:
        mono_ns, unix_ms = self._clock.monotonic_ns(), self._clock.unix_ms()
        alert = wire.Alert(mono_ns=mono_ns, unix_ms=unix_ms, level="error", code=code, message=message[:500])
        body = wire.encode_record(alert)
        self._pending.insert(0, Row(PRIORITIES[wire.Alert], "ev", mono_ns, unix_ms, 0.0, body))
        self._pending_bytes += len(body)

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Run an action on the file: count a full disk, replace a damaged file."""
        try:
            action()
        except sqlite3.OperationalError as cause:  # full, read-only, I/O: the file itself is whole
            self._file.shrink()
            self.counters["storage_errors"] += 1
            logger.warning("outbox %s: %s", self._path, cause)
            return False
        except DAMAGE as cause:
            self._file.abandon()
            self._file = self._start_over(cause)
            self._acknowledged = 0
            return False
        return True

    def close(self) -> None:
        """Commit and close; safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._commit()
            self._closed = True
            self._guarded(lambda: self._file.close(self._lived_s()))
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)


def _metric(body: bytes) -> wire.MetricReport | None:
    """Return a metric report; None if it is unreadable, and stays until age or quota drop it."""
    try:
        record = wire.decode_record(body)
    except ProtocolError:
        return None
    return record if isinstance(record, wire.MetricReport) else None
