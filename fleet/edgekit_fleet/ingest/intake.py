"""What is done with messages from devices, whichever broker brought them.

The order is the promise: decode, commit, tell the hooks, answer devices (the watermark), and only
then may the broker forget. A process killed anywhere on the way is given the messages again, and
the store passes over what it has.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgekit.core import wire
from edgekit.core.errors import EdgekitError, ProtocolError
from edgekit_fleet.ingest.ports import Answer, Parts
from edgekit_fleet.store.messages import MAX_SEQ, Arrived, Refused, kind_of

logger = logging.getLogger(__name__)

MAX_ITEMS = 10_000
REQUEST_LIFE_MS = 60_000
MAX_BOOT = 128


@dataclass(frozen=True)
class Message:
    """One message as the broker brought it; ``arrived_ms`` is when the broker took it."""

    topic: str
    payload: bytes
    arrived_ms: int


class Ingest(Protocol):
    """Brings messages from a broker to an ``Intake`` and acknowledges what it has taken."""

    def start(self) -> None:
        """Begin; raises ``LinkError`` when the broker cannot be reached at all."""

    def stop(self) -> None:
        """End, and wait for it; what is not acknowledged comes again at the next start."""

    @property
    def is_running(self) -> bool:
        """Whether it does its work."""


class Intake:
    """Takes batches of messages. One thread at a time.

    Args:
        services: The store, the hooks, the way down.
        now_ms: The fleet's clock, Unix milliseconds.
    """

    def __init__(self, services: Parts, now_ms: Callable[[], int]) -> None:
        self._services = services
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self.present_since_ms = 0
        """When the broker started: births from before tell nothing about who is connected."""
        self.counters: Counter[str] = Counter()
        self._known: dict[str, bool] = {}

    def take(self, messages: Sequence[Message]) -> None:
        """Take messages: when it returns, the broker may forget them.

        Raises:
            StorageError: Nothing of the batches was committed; hand the same messages in again.
        """
        with self._lock:
            batches: list[Arrived] = []
            refused: list[Refused] = []
            answers: list[tuple[str, wire.Request, int]] = []
            self._known.clear()
            for message in messages:
                self.counters["messages"] += 1
                try:
                    self._sort(message, batches, answers)
                except ProtocolError as cause:
                    self.counters["refused"] += 1
                    device = message.topic.split("/")[2] if message.topic.count("/") >= 2 else ""
                    refused.append(
                        Refused(device[:64], message.topic, message.arrived_ms, str(cause), message.payload)
                    )
            if refused:
                self._services.messages.set_aside(refused)
            self._commit(batches)
            for device, request, arrived_ms in answers:
                self._answer(device, request, arrived_ms)

    def _sort(
        self, message: Message, batches: list[Arrived], answers: list[tuple[str, wire.Request, int]]
    ) -> None:
        """Decode one message: state is taken over at once, the rest is put where its turn comes."""
        device, way, leaf = wire.parse_topic(message.topic)
        if way != "up":
            raise ProtocolError(f"{message.topic}: devices publish below up")
        if leaf == "state" and not message.payload:
            return  # an empty retained message only clears the topic
        if device not in self._known:
            self._known[device] = self._services.devices.exists(device)
        if not self._known[device]:
            raise ProtocolError(f"device '{device}' is not enrolled here")
        if leaf in ("m", "ev"):
            batches.append(read_batch(message, device))
        elif leaf == "state":
            self._state(device, wire.decode(message.payload, wire.Birth), message.arrived_ms)
        elif leaf == "reported":
            self._reported(device, wire.decode(message.payload, wire.Reported), message.arrived_ms)
        else:
            answers.append((device, wire.decode(message.payload, wire.Request), message.arrived_ms))

    def _state(self, device: str, birth: wire.Birth, arrived_ms: int) -> None:
        _check_numbers((birth.conn, birth.desired, birth.unix_ms))
        services = self._services
        present = arrived_ms >= self.present_since_ms
        if services.devices.take_birth(device, birth, arrived_ms, present=present):
            self._run(services.hooks.on_state, device, birth)
            services.bus.publish("device", {"device": device, "online": birth.online and present})
        if birth.online and present:  # the device may have missed what was committed
            self._acknowledge(device, birth.boot, services.messages.watermark(device, birth.boot))

    def _reported(self, device: str, reported: wire.Reported, arrived_ms: int) -> None:
        _check_numbers((reported.version, reported.desired, reported.unix_ms))
        services = self._services
        if services.devices.take_reported(device, reported, arrived_ms):
            self._run(services.hooks.on_reported, device, reported)
            services.bus.publish("device", {"device": device, "reported": reported.version})

    def _run(self, hooks: Sequence[Callable[..., None]], *told: Any) -> None:
        """Tell each hook; one that fails must not hold up every device's messages."""
        for hook in hooks:
            try:
                hook(*told)
            except Exception as cause:  # noqa: BLE001, PERF203 - the boundary to other parts of the fleet
                self._failed(hook, cause)

    def _failed(self, hook: Callable[..., Any], cause: Exception) -> None:
        self.counters["hook_failures"] += 1
        logger.error("%s failed", getattr(hook, "__qualname__", hook), exc_info=cause)

    def _commit(self, batches: Sequence[Arrived]) -> None:
        if not batches:
            return
        services = self._services
        found = services.messages.commit(batches)
        for device, arrived_ms in {one.device: one.arrived_ms for one in batches}.items():
            services.devices.touch(device, arrived_ms)
        sent = sum(one.count for one in batches)
        kept = sum(len(one.records) for one in found)
        self.counters["records"] += kept
        self.counters["repeated"] += sent - kept
        for one in found:
            if one.records:
                self._run(services.hooks.on_committed, one.device, one.records)
                self._tell(one.device, one.records)
            self._acknowledge(one.device, one.boot, one.watermark)

    def _tell(self, device: str, records: Iterable[wire.Record]) -> None:
        kinds = Counter(kind_of(record) for record in records)
        self._services.bus.publish("event", {"device": device, **kinds})

    def _acknowledge(self, device: str, boot: str, watermark: int) -> None:
        self._services.downlink.publish(device, "ack", wire.encode(wire.Ack(boot, watermark)))

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


def take_until_done(intake: Intake, messages: Sequence[Message], stopping: threading.Event) -> bool:
    """Hand messages in until they are taken, with a growing pause while the store fails.

    Returns:
        False when it was stopped before; the broker must not forget them.
    """
    pause_s = 0.1
    while not stopping.is_set():
        try:
            intake.take(messages)
        except EdgekitError:  # noqa: PERF203 - the loop is the trying again
            logger.exception("the store failed; trying again in %.1f s", pause_s)
            intake.counters["store_failures"] += 1
            stopping.wait(pause_s)
            pause_s = min(pause_s * 2, 10.0)
        else:
            return True
    return False


def read_batch(message: Message, device: str) -> Arrived:
    """Decode a batch, record by record where one of them is not understood.

    A record of a kind that this version does not know must not hold up those behind it: it is set
    aside, and counts as committed.

    Raises:
        ProtocolError: The batch itself is malformed.
    """
    raw = wire.decode(message.payload, wire.RawBatch)
    if not 1 <= len(raw.items) <= MAX_ITEMS or not 1 <= raw.seq0 < MAX_SEQ - MAX_ITEMS:
        raise ProtocolError(f"batch: {len(raw.items)} messages from {raw.seq0}")
    if not 1 <= len(raw.boot) <= MAX_BOOT:
        raise ProtocolError("batch: no boot id")
    _check_numbers((raw.sent_mono_ns, raw.sent_unix_ms))
    records: list[tuple[int, wire.Record]] = []
    refused: list[tuple[int, Refused]] = []
    for seq, item in enumerate(raw.items, start=raw.seq0):
        try:
            records.append((seq, wire.decode_record(bytes(item))))
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
    )


def _check_numbers(numbers: Iterable[int]) -> None:
    for number in numbers:
        if not -1 <= number < MAX_SEQ:
            raise ProtocolError(f"a number is out of range: {number}")
