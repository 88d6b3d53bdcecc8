"""Processes messages of devices, whichever broker delivered them.

The order guarantees that nothing is lost: decode, commit everything of one pull in one transaction, run
the hooks, answer devices (the watermark), and only then acknowledge to the broker. If the process is
killed on the way, the broker delivers the messages again, and the store skips what it has.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgekit.core import wire
from edgekit.core.errors import EdgekitError, ProtocolError, StorageError
from edgekit.core.spec import DEVICE_ID
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.ingest import claims
from edgekit_fleet.ingest.ports import Answer, Parts
from edgekit_fleet.ingest.quota import BYTES_PER_S, MESSAGES_PER_S, Quota
from edgekit_fleet.store.arrivals import Arrived, Refused
from edgekit_fleet.store.messages import Committed
from edgekit_fleet.store.rows import MAX_SEQ, kind_of

logger = logging.getLogger(__name__)

MAX_ITEMS = 10_000
REQUEST_LIFE_MS = 60_000
MAX_BOOT = 128
MAX_DELAY_MS = 180_000
OVER_QUOTA = f"over quota: more than {MESSAGES_PER_S:g} messages or {BYTES_PER_S:g} bytes a second"
MAX_REASONS = 4
MAX_PAUSE_S = 2.0
"""Between two attempts to store, so that everything goes on soon after there is room again."""
MAX_REASON = 200


@dataclass(frozen=True)
class Message:
    """One message as the broker delivered it; ``arrived_ms`` is when the broker received it."""

    topic: str
    payload: bytes
    arrived_ms: int


class Ingest(Protocol):
    """Passes messages from a broker to an ``Intake`` and acknowledges those that it has stored."""

    def start(self) -> None:
        """Start; raises ``LinkError`` if the broker cannot be reached."""

    def stop(self) -> None:
        """Stop, and wait for the end; messages without an acknowledgement come again at the next start."""

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""


@dataclass
class _Pull:
    """The decoded messages of one pull, by kind; each list in order of arrival."""

    batches: list[Arrived] = field(default_factory=list)
    states: list[tuple[Message, str, wire.Birth | wire.Reported]] = field(default_factory=list)
    requests: list[tuple[str, wire.Request, int]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Those of its senders that are enrolled."""
    over_quota: Counter[str] = field(default_factory=Counter)
    """Messages that were dropped, by device."""

    def refuse(self, message: Message, reason: ProtocolError) -> None:
        """Keep a message that cannot be used, for diagnosis."""
        self.refused.append(
            Refused(_sender(message)[:64], message.topic, message.arrived_ms, str(reason), message.payload)
        )


@dataclass
class _Stored:
    """The result of a transaction: watermarks and new records by outbox, and the states that were new."""

    committed: list[Committed]
    states: list[tuple[str, wire.Birth | wire.Reported, bool]]
    """Device, state, and whether the message arrived after the broker's last start."""


class Intake:
    """Stores batches of messages, one thread at a time.

    Args:
        services: The store, the hooks, the downlink.
        now_ms: The fleet's clock, Unix milliseconds.
        strangers: Remembers senders that are not enrolled; a broker that asks nobody lets them in.
    """

    def __init__(self, services: Parts, now_ms: Callable[[], int], strangers: Strangers) -> None:
        self._services = services
        self._now_ms = now_ms
        self._strangers = strangers
        self._lock = threading.Lock()
        self.present_since_ms = 0
        """When the broker started: earlier births say nothing about which devices are connected now."""
        self.counters: Counter[str] = Counter()
        self.problem = ""
        """Why the last messages could not be stored; empty once they were."""
        self._paused = ""
        self._delay_ms = 0
        self._quota = Quota()

    def pause(self, reason: str) -> None:
        """Store nothing more, for this reason; "" goes on."""
        self._paused = reason

    def take(self, messages: Sequence[Message], *, is_carried: bool = False) -> None:
        """Process messages; when this returns, they may be acknowledged to the broker.

        ``is_carried``: an operator brought them in a file, so the limits of a connection do not apply.

        Raises:
            StorageError: Nothing was committed; pass the same messages again.
        """
        if self._paused:
            raise StorageError(self._paused)
        pull = self._decode(messages, is_limited=not is_carried)
        with self._lock:
            stored = self._store(pull)
            self._count(messages, pull, stored)
            self._notify(stored)
            self._acknowledge(pull, stored)
            for device, request, arrived_ms in pull.requests:
                self._answer(device, request, arrived_ms)

    def _decode(self, messages: Sequence[Message], *, is_limited: bool) -> _Pull:
        pull = _Pull()
        senders = {_sender(message) for message in messages}
        known = self._services.devices.known(senders)
        pull.known, now_ms = known, self._now_ms()
        for stranger in senders.difference(known):
            if DEVICE_ID.fullmatch(stranger):
                self._strangers.note(stranger, now_ms)
        for message in messages:
            sender = _sender(message)
            if is_limited and not self._quota.allows(sender, len(message.payload), now_ms):
                pull.over_quota[sender] += 1
                continue
            try:
                _sort(pull, message, known)
            except ProtocolError as cause:
                pull.refuse(message, cause)
        return pull

    def _store(self, pull: _Pull) -> _Stored:
        """Commit everything of a pull in one transaction, and so with one sync of the disk.

        Measured: with a transaction for each device's time of contact, birth and reported state, a
        disk of 4 ms a sync held a fleet to 300 messages/s.
        """
        services = self._services
        with services.database.transaction():
            news = [entry for state in pull.states if (entry := self._take_state(pull, *state))]
            committed = services.messages.commit(pull.batches)
            services.devices.touch({batch.device: batch.arrived_ms for batch in pull.batches})
            for outbox in committed:
                if outbox.records:
                    self._run_in_commit(outbox)
            services.messages.set_aside(pull.refused)
            flooded = {
                (device, "over quota"): count
                for device, count in pull.over_quota.items()
                if device in pull.known  # else whoever makes names up fills the table
            }
            services.messages.turn_away(flooded, self._now_ms())
        return _Stored(committed, news)

    def _take_state(
        self, pull: _Pull, message: Message, device: str, state: wire.Birth | wire.Reported
    ) -> tuple[str, wire.Birth | wire.Reported, bool] | None:
        """Store a birth or a reported state; None if it is not new, or cannot be stored."""
        devices, present = self._services.devices, self._is_present(message)
        try:
            if isinstance(state, wire.Birth):
                taken = devices.take_birth(device, state, message.arrived_ms, present=present)
            else:
                taken = devices.take_reported(device, state, message.arrived_ms)
        except ProtocolError as cause:
            pull.refuse(message, cause)
            return None
        return (device, state, present) if taken else None

    def _run_in_commit(self, outbox: Committed) -> None:
        for kind, hook in self._services.hooks.in_commit:
            if not any(isinstance(record, kind) for record in outbox.records):
                continue  # most pulls have none, and a part of a transaction is two statements more
            try:
                with self._services.database.savepoint():
                    hook(outbox.device, outbox.records)
            except StorageError:
                raise
            except Exception as cause:  # noqa: BLE001 - the boundary to other parts of the fleet
                self._failed(hook, cause)

    def _count(self, messages: Sequence[Message], pull: _Pull, stored: _Stored) -> None:
        sent = sum(batch.count for batch in pull.batches)
        kept = sum(len(outbox.records) for outbox in stored.committed)
        self.counters.update(
            messages=len(messages),
            refused=len(pull.refused),
            records=kept,
            repeated=sent - kept,
            over_quota=pull.over_quota.total(),
        )
        for outbox in stored.committed:
            if outbox.lost:
                self.counters["lost_by_restore"] += outbox.lost
                logger.warning("%s: %d messages were lost by a restore", outbox.device, outbox.lost)

    def _notify(self, stored: _Stored) -> None:
        hooks, bus = self._services.hooks, self._services.bus
        for device, state, present in stored.states:
            if isinstance(state, wire.Birth):
                self._run(hooks.on_state, device, state)
                bus.publish("device", {"device": device, "online": state.online and present})
            else:
                self._run(hooks.on_reported, device, state)
                bus.publish("device", {"device": device, "reported": state.version})
        for outbox in stored.committed:
            if outbox.records:
                self._run(hooks.on_committed, outbox.device, outbox.records)
                kinds = Counter(kind_of(record) for record in outbox.records)
                bus.publish("event", {"device": outbox.device, **kinds})

    def _run(self, hooks: Sequence[Callable[..., None]], *arguments: Any) -> None:
        """Call each hook; a failing hook must not block the messages of all devices."""
        for hook in hooks:
            try:
                hook(*arguments)
            except Exception as cause:  # noqa: BLE001, PERF203 - the boundary to other parts of the fleet
                self._failed(hook, cause)

    def _failed(self, hook: Callable[..., Any], cause: Exception) -> None:
        self.counters["hook_failures"] += 1
        logger.error("%s failed", getattr(hook, "__qualname__", hook), exc_info=cause)

    def _acknowledge(self, pull: _Pull, stored: _Stored) -> None:
        """Send watermarks, how far behind this fleet is, and why messages could not be used."""
        if pull.batches:
            behind_ms = self._now_ms() - min(batch.arrived_ms for batch in pull.batches)
            self._delay_ms = min(max(behind_ms, 0), MAX_DELAY_MS)
        watermarks, reasons = self._watermarks(pull, stored), _reasons(pull, stored)
        for device, boot in reasons.keys() - watermarks.keys():
            watermarks[device, boot] = self._services.messages.watermark(device, boot)
        for (device, boot), watermark in watermarks.items():
            ack = wire.Ack(boot, watermark, self._delay_ms, tuple(reasons.get((device, boot), ())))
            self._services.downlink.publish(device, "ack", wire.encode(ack))

    def _watermarks(self, pull: _Pull, stored: _Stored) -> dict[tuple[str, str], int]:
        """Return the watermarks to send: of each outbox that sent something, and of devices that connected.

        A device that connects may have missed the acknowledgement of an earlier commit.
        """
        watermarks = {(outbox.device, outbox.boot): outbox.watermark for outbox in stored.committed}
        for message, device, state in pull.states:
            if isinstance(state, wire.Birth) and state.online and self._is_present(message):
                key = device, state.boot
                if key not in watermarks:
                    watermarks[key] = self._services.messages.watermark(*key)
        return watermarks

    def _is_present(self, message: Message) -> bool:
        # A clock that was ahead when the broker started is behind that start once it is right again.
        return message.arrived_ms >= self.present_since_ms or self._now_ms() < self.present_since_ms

    def _answer(self, device: str, request: wire.Request, arrived_ms: int) -> None:
        if self._now_ms() - arrived_ms > REQUEST_LIFE_MS:
            self.counters["expired"] += 1
            return
        self.counters["requests"] += 1
        handler = self._services.hooks.requests.get(request.kind)
        answer: Answer
        if handler is None:
            answer = wire.Response(request.id, error=f"this fleet does not answer '{request.kind}'")
        else:
            try:
                answer = handler(device, request)
            except EdgekitError as cause:
                answer = wire.Response(request.id, error=f"{cause.code}: {cause.message}")
            except Exception as cause:  # noqa: BLE001 - as for a hook
                self._failed(handler, cause)
                answer = wire.Response(request.id, error="edgekit.bug: the fleet manager failed")
        if answer is not None:
            self._services.downlink.publish(device, "res", wire.encode(answer))


def _reasons(pull: _Pull, stored: _Stored) -> dict[tuple[str, str], list[str]]:
    """Return why messages could not be used, the first few by device and boot; "" where that is unknown."""
    reasons: dict[tuple[str, str], list[str]] = {}
    refused = [
        (message.device, "", message.reason) for message in pull.refused if message.device in pull.known
    ]
    refused += [(device, "", OVER_QUOTA) for device in pull.over_quota]
    refused += [(box.device, box.boot, reason) for box in stored.committed for reason in box.refused]
    for device, boot, reason in refused:
        known = reasons.setdefault((device, boot), [])
        if len(known) < MAX_REASONS:
            known.append(reason[:MAX_REASON])
    return reasons


def take_until_done(intake: Intake, messages: Sequence[Message], stopping: threading.Event) -> bool:
    """Retry until messages are stored, with a growing pause while the store fails.

    Returns:
        False if it was stopped before; then they must not be acknowledged to the broker.
    """
    pause_s = 0.1
    while not stopping.is_set():
        try:
            intake.take(messages)
        except EdgekitError as cause:  # noqa: PERF203 - the loop is the retry
            if intake.problem != cause.message:
                logger.error("messages are not stored: %s", cause.message)  # noqa: TRY400 - no bug
            intake.problem = cause.message
            intake.counters["store_failures"] += 1
            stopping.wait(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        else:
            intake.problem = ""
            return True
    return False


def _sender(message: Message) -> str:
    """Return the device in a topic, which may be malformed; empty without one."""
    parts = message.topic.split("/", 3)
    return parts[2] if len(parts) > 2 else ""


def _sort(pull: _Pull, message: Message, known: Collection[str]) -> None:
    """Decode one message and add it to the pull.

    Raises:
        ProtocolError: It does not fit its topic, or its device is not enrolled.
    """
    device, way, leaf = wire.parse_topic(message.topic)
    if way != "up":
        raise ProtocolError(f"{message.topic}: devices publish below up")
    if device not in known:
        raise ProtocolError(f"device '{device}' is not enrolled here, or is revoked")
    if leaf in ("m", "ev"):
        pull.batches.append(read_batch(message, device))
    elif leaf == "req":
        pull.requests.append((device, wire.decode(message.payload, wire.Request), message.arrived_ms))
    elif leaf == "reported":
        reported = wire.decode(message.payload, wire.Reported)
        _check_numbers((reported.version, reported.desired, reported.unix_ms))
        pull.states.append((message, device, reported))
    elif message.payload:  # an empty retained state only clears its topic
        birth = wire.decode(message.payload, wire.Birth)
        _check_numbers((birth.conn, birth.desired, birth.unix_ms))
        pull.states.append((message, device, birth))


def read_batch(message: Message, device: str) -> Arrived:
    """Decode a batch, record by record.

    A record of a kind that this version does not know must not block those after it: it is set aside,
    and counts as committed.

    Raises:
        ProtocolError: The batch itself is malformed.
    """
    raw = wire.decode(message.payload, wire.RawBatch)
    if not 1 <= len(raw.items) <= MAX_ITEMS or not 1 <= raw.seq0 < claims.MAX_NUMBER:
        raise ProtocolError(f"batch: {len(raw.items)} messages from {raw.seq0}")
    if not 1 <= len(raw.boot) <= MAX_BOOT:
        raise ProtocolError("batch: no boot id")
    _check_numbers((raw.sent_mono_ns, raw.sent_unix_ms, raw.lowest))
    records: list[tuple[int, wire.Record]] = []
    refused: list[tuple[int, Refused]] = []
    for seq, item in enumerate(raw.items, start=raw.seq0):
        try:
            record = wire.decode_record(bytes(item))
            claims.check(record, seq)
            records.append((seq, record))
        except ProtocolError as cause:  # noqa: PERF203 - each record is judged alone
            where = f"{message.topic} {raw.boot} {seq}"
            refused.append((seq, Refused(device, where, message.arrived_ms, str(cause), bytes(item))))
    return Arrived(
        device=device,
        boot=raw.boot,
        seq0=raw.seq0,
        count=len(raw.items),
        records=records,
        refused=refused,
        arrived_ms=message.arrived_ms,
        sent_mono_ns=raw.sent_mono_ns,
        sent_unix_ms=raw.sent_unix_ms,
        lowest=raw.lowest,
    )


def _check_numbers(numbers: Iterable[int]) -> None:
    for number in numbers:
        if not -1 <= number < MAX_SEQ:
            raise ProtocolError(f"a number is out of range: {number}")
