"""Ingest from NATS: durable pull consumers on the stream of everything devices send.

Their rate does not depend on the number of devices, whereas an MQTT subscription collapses (measured:
35,000 to 738 messages/s). Births and reported states have a consumer of their own, so that the
acknowledgements of other messages do not wait behind the births of ten thousand devices that reconnect.

The stream is in the broker's memory. What a device must not lose waits in its outbox until the fleet has
committed it, and is sent again after each connection: a copy on disk would only be a repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import msgspec

from edgekit_fleet.broker.nats_thread import PAUSE_S, NatsAccess, NatsThread
from edgekit_fleet.ingest.intake import Intake, Message, take_until_done

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js.api import ConsumerConfig
    from nats.js.client import JetStreamContext

logger = logging.getLogger(__name__)

STREAM = "EK_UP"
SUBJECTS = "ek.v1.*.up.>"
CONSUMERS = {
    "messages": ["ek.v1.*.up.m", "ek.v1.*.up.ev", "ek.v1.*.up.req"],
    "states": ["ek.v1.*.up.state", "ek.v1.*.up.reported"],
}
BATCH = 512
UNDER_WAY = 4 * BATCH
"""Messages requested and not acknowledged: while one batch is committed, the next ones arrive."""
ACK_WAIT_S = 30.0
MAX_AGE_S = 3600.0
MAX_BYTES = 128 << 20
"""Of the stream. When it is full, new messages are dropped, never older ones; their devices repeat them."""
MAX_OF_DEVICE = 64
"""Messages of one kind of one device in the stream; a device has at most 20 under way."""
_EXPIRES_S = 5.0
PACE_S = 0.05
"""Between two batches that are not full: thousands of devices that send a message now and then are stored in
20 commits a second, not in hundreds. After a pause the first message does not wait.
"""


class JetStreamIngest:
    """Pulls messages from NATS on a thread of its own.

    Args:
        access: How to reach the broker.
        intake: Stores the messages.
    """

    def __init__(self, access: NatsAccess, intake: Intake) -> None:
        self._intake = intake
        self._stopping = threading.Event()
        self._pulls: list[_Pull] = []
        self._restoring: asyncio.Lock | None = None
        self._thread = NatsThread("ingest", access, self._work, self._reconnected)

    def start(self) -> None:
        """Start, and wait until the stream exists.

        Raises:
            LinkError: The server cannot be reached, or refuses the stream.
        """
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_running

    def stop(self) -> None:
        """Stop, and wait for the end; safe twice."""
        self._stopping.set()
        self._thread.stop()

    async def _work(self, client: Client) -> None:
        self._restoring = asyncio.Lock()
        await _ensure_stream(client.jetstream())
        self._pulls = [_Pull(client, consumer) for consumer in CONSUMERS]
        for pull in self._pulls:
            await pull.open()
        self._thread.is_ready()
        await asyncio.gather(*(self._move(pull) for pull in self._pulls))

    def _reconnected(self) -> None:
        """Request again: the open requests went to a connection that has ended."""
        for pull in self._pulls:
            pull.forget()

    async def _move(self, pull: _Pull) -> None:
        """Move messages from the broker into the store until stopped."""
        import nats.errors
        import nats.js.errors

        while not self._stopping.is_set():
            try:
                batch = await pull.next()
                if batch:
                    messages = [_message(raw) for raw in batch]
                    if await asyncio.to_thread(take_until_done, self._intake, messages, self._stopping):
                        await pull.acknowledge(batch[-1])
                elif pull.is_refused:
                    await self._restore(pull)
            except (nats.errors.Error, nats.js.errors.Error, asyncio.TimeoutError) as cause:  # noqa: PERF203 - the loop is the retry
                logger.info("waiting for the broker: %s", cause)
                await asyncio.sleep(PAUSE_S)

    async def _restore(self, pull: _Pull) -> None:
        """Create the stream and the consumers again: a broker that has restarted knows neither."""
        await asyncio.sleep(PAUSE_S)
        assert self._restoring is not None
        async with self._restoring:
            await _ensure_stream(pull.client.jetstream())
        pull.forget()


class _Pull:
    """One consumer's messages: requested ahead of time, and handed over in batches, in order.

    Source: NATS, "JetStream wire API reference", CONSUMER.MSG.NEXT; ADR-37 for the status messages.
    """

    def __init__(self, client: Client, consumer: str) -> None:
        self.client = client
        self.is_refused = False
        """Whether the server has no such consumer."""
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        self._inbox = client.new_inbox()
        self._arrived: list[Msg] = []
        self._open = 0
        self._asked_s = self._taken_s = 0.0
        self._wake = asyncio.Event()

    async def open(self) -> None:
        """Subscribe to what the server sends for requests."""
        await self.client.subscribe(self._inbox, cb=self._take, pending_bytes_limit=-1)

    def forget(self) -> None:
        """Count on no answer to the requests sent so far."""
        self._open, self.is_refused = 0, False
        self._wake.set()

    async def next(self) -> list[Msg]:
        """Return at most 512 messages; empty after a few seconds without one, or when woken."""
        await self._request()
        if not self._arrived:
            self._wake.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _EXPIRES_S)
        await self._gather()
        batch, self._arrived = self._arrived[:BATCH], self._arrived[BATCH:]
        await self._request()
        return batch

    async def _gather(self) -> None:
        """Wait for more messages if the last batch was taken a moment ago."""
        now_s = asyncio.get_running_loop().time()
        if 0 < len(self._arrived) < BATCH and now_s - self._taken_s < PACE_S:
            await asyncio.sleep(PACE_S - (now_s - self._taken_s))
        self._taken_s = asyncio.get_running_loop().time()

    async def acknowledge(self, last: Msg) -> None:
        """Acknowledge a message and all before it."""
        await self.client.publish(last.reply, b"+ACK")

    async def _request(self) -> None:
        """Keep requests open for as many messages as may be under way."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._asked_s > 2 * _EXPIRES_S:
            self._open = 0  # every request has expired, whatever became of the word of it
        room = UNDER_WAY - BATCH - self._open - len(self._arrived)
        if room >= BATCH and not self.is_refused:
            body = {"batch": room, "expires": int(_EXPIRES_S * 1e9)}
            self._open, self._asked_s = self._open + room, now_s
            await self.client.publish(self._subject, msgspec.json.encode(body), reply=self._inbox)

    async def _take(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers and not message.data else None
        if status is None:
            self._open -= 1
            self._arrived.append(message)
        elif status != "100":  # a heartbeat
            pending = int(message.headers.get("Nats-Pending-Messages", 0)) if message.headers else 0
            self._open = max(self._open - pending, 0)
            self.is_refused = status in ("409", "503") and not pending
        self._wake.set()


def _message(raw: Msg) -> Message:
    # $JS.ACK.stream.consumer.delivered.seq.seq.TIME.pending, or with domain and account after the second
    # part (ADR-15); one field of it is read faster than ``raw.metadata``
    parts = raw.reply.split(".")
    arrived_ms = int(parts[7] if len(parts) == 9 else parts[9]) // 1_000_000
    return Message(raw.subject.replace(".", "/"), raw.data, arrived_ms)


async def _ensure_stream(stream: JetStreamContext) -> None:
    """Create the stream and its consumers; it keeps what devices send until it is ingested."""
    import nats.js.errors
    from nats.js import api

    config = api.StreamConfig(
        name=STREAM,
        subjects=[SUBJECTS],
        retention=api.RetentionPolicy.INTEREST,
        max_age=MAX_AGE_S,
        max_bytes=MAX_BYTES,
        max_msgs_per_subject=MAX_OF_DEVICE,
        discard=api.DiscardPolicy.NEW,
        storage=api.StorageType.MEMORY,
    )
    try:
        found = (await stream.stream_info(STREAM)).config
        if found.storage != api.StorageType.MEMORY:  # of an earlier version; devices send it all again
            await stream.delete_stream(STREAM)
            await stream.add_stream(config)
    except nats.js.errors.NotFoundError:  # creating it twice would count its bytes twice
        await stream.add_stream(config)
    for name, subjects in CONSUMERS.items():
        await stream.add_consumer(STREAM, _consumer(name, subjects))


def _consumer(name: str, subjects: list[str]) -> ConsumerConfig:
    from nats.js import api

    return api.ConsumerConfig(
        durable_name=name,
        ack_policy=api.AckPolicy.ALL,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=UNDER_WAY,
        filter_subjects=subjects,
    )
