"""The link to the fleet's broker.

One thread owns the connection. Others set a flag or queue a message, and wake that thread.
"""

import contextlib
import logging
import random as random_module
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, ProtocolError
from edgekit.core.ports import Clock
from edgekit.sync.address import SystemClock, Tls, parse_url
from edgekit.sync.connection import Connection
from edgekit.sync.outbox import Outbox
from edgekit.sync.requests import Kind, Questions
from edgekit.sync.sender import Sender

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_STEADY_S = 30.0
_GOODBYE_S = 2.0


class Handlers(msgspec.Struct, frozen=True):
    """Callbacks of the link's owner, on the link's thread: each must return soon.

    ``birth``: ``online``, ``boot`` and ``conn`` are filled in. ``desired``: the exact bytes, unverified.
    ``command``: maybe a repeat. ``sent``: each payload handed to the network, with the records of a batch.
    """

    birth: Callable[[], wire.Birth]
    reported: Callable[[], wire.Reported]
    desired: Callable[[bytes], None]
    command: Callable[[wire.Command], None]
    connection: Callable[[bool], None]
    sent: Callable[[bytes, Sequence[bytes]], None]


class Link:
    """Keeps one connection to the broker (``mqtt://`` or ``mqtts://``) and sends the outbox through it.

    ``tls`` is needed for ``mqtts``; ``random`` returns a number in [0, 1) for jitter. The first connect waits
    a random part of ``first_delay_s``, a reconnect at most ``max_delay_s``.

    Raises:
        ConfigError: The URL is not a broker's, or asks for TLS without an identity.
    """

    def __init__(
        self,
        broker_url: str,
        device: str,
        outbox: Outbox,
        handlers: Handlers,
        *,
        tls: Tls | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
        first_delay_s: float = 1.0,
        max_delay_s: float = 300.0,
    ) -> None:
        self._address = parse_url(broker_url)
        self.broker_url, self._other_url = broker_url, ""
        if self._address.is_tls and tls is None:
            raise ConfigError(f"broker {broker_url} needs the device's identity", hint="enrol the device")
        self._device, self._outbox, self._handlers = device, outbox, handlers
        self._connection = Connection(self._address, tls, device)
        self._clock: Clock = clock or SystemClock()
        self._random = random or random_module.random
        self._first_delay_s, self._max_delay_s = first_delay_s, max_delay_s
        self._sender = Sender(outbox, self._random)
        self._questions = Questions()
        self._asked: deque[bytes] = deque()
        self._wants = {"reported": False, "state": False}
        self._stopping = threading.Event()
        self._counters = dict.fromkeys(
            ("connects", "connect_failures", "disconnects", "malformed", "handler_errors", "unanswered"), 0
        )
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        outbox.subscribe(self._connection.wake)

    # -- called by others

    def start(self) -> None:
        """Start the link's thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Announce ``online`` false if connected, and end the thread; safe to call twice."""
        self._stopping.set()
        self._connection.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        elif not self._thread.ident:
            self._connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._connection.is_ready

    @property
    def problem(self) -> str:
        """Why the link is down: broker and reason; empty while it is up."""
        if self.is_connected:
            return ""
        return f"{self._address.destination}: {self._connection.problem or 'not connected yet'}"

    @property
    def refusal(self) -> str:
        """Why the fleet could not use a message, the last time; empty if it never was so."""
        return self._sender.refusal

    def also_try(self, broker_url: str) -> None:
        """Try another address in turn with this one, whenever the link cannot connect."""
        self._other_url = broker_url

    def report(self) -> None:
        """Send ``up/reported`` soon (or on connect)."""
        self._wants["reported"] = True
        self._connection.wake()

    def announce(self) -> None:
        """Send ``up/state`` again soon, because it changed."""
        self._wants["state"] = True
        self._connection.wake()

    def request(
        self, kind: Kind, args: dict[str, Any], timeout_s: float = 10.0
    ) -> wire.Response | wire.Chunk:
        """Ask the fleet and wait for its answer (not on the link's thread).

        Raises:
            LinkError: Not connected, too many questions are open, or no answer in time.
            ServerError: The fleet answered with an error.
        """
        if not self.is_connected:
            raise LinkError("the link to the fleet is down")
        question = self._questions.ask()
        request = wire.Request(question.number, kind, args, self._clock.monotonic_ns())
        self._asked.append(wire.encode(request))
        self._connection.wake()
        try:
            return question.wait(timeout_s)
        finally:
            self._questions.drop(question)

    def counters(self) -> dict[str, int]:
        """Return the counters of connections, batches, repeats, stalls, acknowledgements and failures."""
        return {**self._counters, **self._sender.counters}

    # -- the link's thread

    def _run(self) -> None:
        attempt = 0
        delay_s = self._random() * self._first_delay_s
        while not self._stopping.wait(delay_s):
            began_ns = self._clock.monotonic_ns()
            try:
                self._serve()
            except (OSError, EdgekitError, ValueError) as cause:  # ValueError: a closed socket in select
                self._counters["connect_failures"] += 0 if self.is_connected else 1
                problem = self._connection.failed(cause)
                logger.info("link to %s is down: %s", self._address.destination, problem)
            except Exception as bug:
                self._counters["handler_errors"] += 1
                self._connection.problem = f"a bug: {bug!r}"
                logger.exception("the link failed and restarts")
            was_steady = self._clock.monotonic_ns() - began_ns > _STEADY_S * 1e9
            if not self.is_connected and self._other_url:
                self.broker_url, self._other_url = self._other_url, self.broker_url
                self._address = parse_url(self.broker_url)
                self._connection.use(self._address)
            self._leave()
            # Full jitter: the devices of a fleet must not reconnect all at once.
            attempt = 1 if was_steady else min(attempt + 1, 20)
            delay_s = self._random() * min(self._max_delay_s, 2.0**attempt)
        self._connection.close()

    def _serve(self) -> None:
        self._conn = self._outbox.next_connection()
        client = self._connection.new_client()
        will = wire.encode(wire.Birth(online=False, boot=self._outbox.boot, conn=self._conn))
        client.will_set(wire.up(self._device, "state"), will, qos=1, retain=True)
        client.on_message = self._on_message
        self._connection.open(client, self._stopping.is_set, topics=[wire.down(self._device, "#")])
        if not self.is_connected:
            return
        self._counters["connects"] += 1
        self._wants.update(state=True, reported=True)
        self._sender.connected(self._clock.monotonic_ns())
        self._call(self._handlers.connection, True)
        self._pump()
        while self._connection.is_open and not self._stopping.is_set():
            self._connection.turn(self._pause_s())
            self._pump()

    def _pause_s(self) -> float:
        stall_s = self._sender.next_look_s(self._clock.monotonic_ns())
        return _TICK_S if stall_s is None else min(_TICK_S, stall_s + 0.001)

    def _pump(self) -> None:
        for leaf, is_due in list(self._wants.items()):
            if is_due:
                self._wants[leaf] = False
                self._publish_state(leaf)
        while self._asked:
            self._publish("req", self._asked.popleft(), qos=0)
        for leaf, body, records in self._sender.take(self._clock.monotonic_ns()):
            self._publish(leaf, body, records)

    def _publish(
        self, leaf: str, body: bytes, records: Sequence[bytes] = (), *, qos: int = 1, retain: bool = False
    ) -> Any:
        self._handlers.sent(body, records)
        return self._connection.client.publish(wire.up(self._device, leaf), body, qos=qos, retain=retain)

    def _publish_state(self, leaf: str) -> None:
        if leaf == "reported":
            self._publish(leaf, wire.encode(self._handlers.reported()))
            return
        birth = msgspec.structs.replace(
            self._handlers.birth(),
            online=True,
            boot=self._outbox.boot,
            conn=self._conn,
            unix_ms=self._clock.unix_ms(),
        )
        self._publish(leaf, wire.encode(birth), retain=True)

    def _leave(self) -> None:
        was_ready, is_stopping = self.is_connected, self._stopping.is_set()
        if was_ready and is_stopping and self._connection.is_open:
            with contextlib.suppress(OSError, ValueError):
                self._say_goodbye()
        self._connection.leave(politely=was_ready and is_stopping)
        self._questions.disconnected()
        self._asked.clear()
        if was_ready:
            self._counters["disconnects"] += 1
            self._call(self._handlers.connection, False)

    def _say_goodbye(self) -> None:
        last = wire.Birth(
            online=False, boot=self._outbox.boot, conn=self._conn, unix_ms=self._clock.unix_ms()
        )
        publication = self._publish("state", wire.encode(last), retain=True)
        until_ns = self._clock.monotonic_ns() + int(_GOODBYE_S * 1e9)
        while (
            self._connection.is_open
            and not publication.is_published()
            and self._clock.monotonic_ns() < until_ns
        ):
            self._connection.turn(0.05)

    # -- what the client calls, on the link's thread

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        try:
            self._take(message.topic, message.payload)
        except (ProtocolError, UnicodeDecodeError) as cause:
            self._counters["malformed"] += 1
            logger.debug("malformed message: %s", cause)

    def _take(self, topic: str, payload: bytes) -> None:
        device, way, leaf = wire.parse_topic(topic)
        if (device, way) != (self._device, "down"):
            raise ProtocolError(f"{topic}: not for this device")
        if leaf == "ack":
            self._sender.acknowledged(wire.decode(payload, wire.Ack), self._clock.monotonic_ns())
        elif leaf == "desired":
            if len(payload) > wire.MAX_DESIRED_BYTES:
                raise ProtocolError(f"desired: {len(payload)} bytes")
            if payload:  # an empty one clears the retained message
                self._call(self._handlers.desired, bytes(payload))
        elif leaf == "cmd":
            self._call(self._handlers.command, wire.decode(payload, wire.Command))
        elif not self._questions.answered(wire.decode_response(payload)):
            self._counters["unanswered"] += 1

    def _call(self, handler: Callable[[Any], None], argument: Any) -> None:
        try:
            handler(argument)
        except EdgekitError as cause:  # the link goes on
            self._counters["handler_errors"] += 1
            logger.warning("a message could not be handled: %s", cause)
