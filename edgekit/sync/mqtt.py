"""The link to the fleet's broker; the only file that imports the MQTT client.

One thread owns the client. Others set a flag or queue a message, and wake that thread through a socket
pair.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random as random_module
import select
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, ProtocolError
from edgekit.core.ports import Clock
from edgekit.sync.address import Address, SystemClock, Tls, parse_url
from edgekit.sync.outbox import Outbox
from edgekit.sync.requests import Kind, Question, Questions
from edgekit.sync.sender import Sender

logger = logging.getLogger(__name__)

KEEPALIVE_S = 60
CONNECT_S = 10.0
_TICK_S = 1.0
_STEADY_S = 30.0
_GOODBYE_S = 2.0


@dataclass(frozen=True)
class Handlers:
    """Callbacks of the link's owner, on the link's thread: each must return soon.

    ``birth``: the state to announce (``online``, ``boot``, ``conn`` are filled in). ``reported``: the
    document for ``up/reported``. ``desired``: the exact bytes of a desired state, unverified. ``command``: a
    command, maybe a repeat. ``connection``: whether the link is up. ``sent``: each payload handed to the
    network, with the records of a batch.
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
        if self._address.is_tls and tls is None:
            raise ConfigError(f"broker {broker_url} needs the device's identity", hint="enrol the device")
        self._device = device
        self._outbox = outbox
        self._handlers = handlers
        self._tls = tls
        self._clock: Clock = clock or SystemClock()
        self._random = random or random_module.random
        self._first_delay_s = first_delay_s
        self._max_delay_s = max_delay_s
        self._sender = Sender(outbox, self._random)
        self._questions = Questions()
        self._asked: queue.Queue[bytes] = queue.Queue()
        self._wants = {"reported": False, "state": False}
        self._stopping = threading.Event()
        self._up = False
        self._ready = False
        self._problem = "not connected yet"
        self._client: Any = None
        self._counters = dict.fromkeys(
            ("connects", "connect_failures", "disconnects", "malformed", "handler_errors", "unanswered"), 0
        )
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        outbox.subscribe(self._wake)

    # -- called by others

    def start(self) -> None:
        """Start the link's thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Announce ``online`` false if connected, and end the thread; safe to call twice."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        elif not self._thread.ident:
            self._close_wakers()

    @property
    def is_connected(self) -> bool:
        """Whether the link is up."""
        return self._ready

    @property
    def problem(self) -> str:
        """Why the link is down: broker and reason; empty while it is up."""
        address = self._address
        return "" if self._ready else f"{address.host}:{address.port}: {self._problem}"

    def report(self) -> None:
        """Send ``up/reported`` soon (or on connect)."""
        self._wants["reported"] = True
        self._wake()

    def announce(self) -> None:
        """Send ``up/state`` again soon, because it changed."""
        self._wants["state"] = True
        self._wake()

    def ask(self, kind: Kind, args: dict[str, Any]) -> Question:
        """Send a question to the fleet and return it at once.

        Raises:
            LinkError: Not connected, or too many questions are open.
        """
        if not self._ready:
            raise LinkError("the link to the fleet is down")
        question = self._questions.ask()
        request = wire.Request(question.number, kind, args, self._clock.monotonic_ns())
        self._asked.put(wire.encode(request))
        self._wake()
        return question

    def request(
        self, kind: Kind, args: dict[str, Any], timeout_s: float = 10.0
    ) -> wire.Response | wire.Chunk:
        """Ask the fleet and wait for its answer (not on the link's thread).

        Raises:
            LinkError: Not connected, or no answer in time.
            ServerError: The fleet answered with an error.
        """
        question = self.ask(kind, args)
        try:
            return question.wait(timeout_s)
        finally:
            self._questions.drop(question)

    def counters(self) -> dict[str, int]:
        """Return the counters of connections, batches, repeats, stalls, acknowledgements and failures."""
        return {**self._counters, **self._sender.counters}

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_out.send(b"x")

    # -- the link's thread

    def _run(self) -> None:
        attempt = 0
        delay_s = self._random() * self._first_delay_s
        while not self._stopping.wait(delay_s):
            began_ns = self._clock.monotonic_ns()
            try:
                self._connect()
                self._serve()
            except (OSError, EdgekitError, ValueError) as cause:  # ValueError: a closed socket in select
                self._counters["connect_failures"] += 0 if self._ready else 1
                self._problem = getattr(cause, "strerror", None) or str(cause)
                logger.info("link to %s:%s is down: %s", self._address.host, self._address.port, cause)
            except Exception as bug:
                self._counters["handler_errors"] += 1
                self._problem = f"a bug: {bug!r}"
                logger.exception("the link failed and restarts")
            was_steady = self._clock.monotonic_ns() - began_ns > _STEADY_S * 1e9
            self._leave()
            # Full jitter: the devices of a fleet must not reconnect all at once.
            attempt = 1 if was_steady else min(attempt + 1, 20)
            delay_s = self._random() * min(self._max_delay_s, 2.0**attempt)
        self._close_wakers()

    def _close_wakers(self) -> None:
        self._wake_in.close()
        self._wake_out.close()

    def _connect(self) -> None:
        self._conn = self._outbox.next_connection()
        client = new_client(self._address, self._tls, self._device)
        will = wire.Birth(online=False, boot=self._outbox.boot, conn=self._conn)
        client.will_set(wire.up(self._device, "state"), wire.encode(will), qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client, self._up, self._ready = client, True, False
        client.connect(self._address.host, self._address.port, KEEPALIVE_S)

    def _serve(self) -> None:
        deadline_ns = self._clock.monotonic_ns() + int(CONNECT_S * 1e9)
        while self._up and not self._stopping.is_set():
            self._turn(self._pause_s())
            if self._ready:
                self._pump()
            elif self._clock.monotonic_ns() > deadline_ns:
                raise LinkError("the broker did not answer")
        if not self._ready and not self._stopping.is_set():
            raise LinkError("the broker closed the connection before it was established")

    def _pause_s(self) -> float:
        stall_s = self._sender.next_look_s(self._clock.monotonic_ns())
        return _TICK_S if stall_s is None else min(_TICK_S, stall_s + 0.001)

    def _turn(self, pause_s: float) -> None:
        self._up &= turn(self._client, self._wake_in, pause_s)

    def _pump(self) -> None:
        for leaf, is_due in list(self._wants.items()):
            if is_due:
                self._wants[leaf] = False
                self._publish_state(leaf)
        with contextlib.suppress(queue.Empty):
            while True:
                self._publish("req", self._asked.get_nowait(), qos=0)
        for leaf, body, records in self._sender.take(self._clock.monotonic_ns()):
            self._publish(leaf, body, records)

    def _publish(
        self, leaf: str, body: bytes, records: Sequence[bytes] = (), *, qos: int = 1, retain: bool = False
    ) -> Any:
        self._handlers.sent(body, records)
        return self._client.publish(wire.up(self._device, leaf), body, qos=qos, retain=retain)

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
        client, was_ready = self._client, self._ready
        if client is not None and self._up and was_ready and self._stopping.is_set():
            with contextlib.suppress(OSError, ValueError):
                self._say_goodbye()
        self._up = self._ready = False
        if client is not None:
            client.on_disconnect = None
            with contextlib.suppress(OSError, ValueError):
                if was_ready and self._stopping.is_set():
                    client.disconnect()
                if (sock := client.socket()) is not None:
                    sock.close()
            self._client = None
        self._questions.disconnected()
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()
        if was_ready:
            self._counters["disconnects"] += 1
            self._call(self._handlers.connection, False)

    def _say_goodbye(self) -> None:
        last = wire.Birth(
            online=False, boot=self._outbox.boot, conn=self._conn, unix_ms=self._clock.unix_ms()
        )
        publication = self._publish("state", wire.encode(last), retain=True)
        until_ns = self._clock.monotonic_ns() + int(_GOODBYE_S * 1e9)
        while self._up and not publication.is_published() and self._clock.monotonic_ns() < until_ns:
            self._turn(0.05)

    # -- what the client calls, on the link's thread

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            raise LinkError(f"the broker refused the connection: {reason}")
        client.subscribe(wire.down(self._device, "#"), qos=0)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            raise LinkError(f"the broker refused the subscription of '{self._device}'")
        self._ready = True
        self._counters["connects"] += 1
        self._wants.update(state=True, reported=True)
        self._sender.connected(self._clock.monotonic_ns())
        logger.info("link to %s:%s is up", self._address.host, self._address.port)
        self._call(self._handlers.connection, True)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._problem = f"the broker closed the link: {reason}"
        logger.info("%s", self._problem)
        self._up = False

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


def new_client(address: Address, tls: Tls | None, client_id: str) -> Any:
    """Return an MQTT 3.1.1 client with a clean session, not connected."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
    client.connect_timeout = CONNECT_S
    if address.user:
        client.username_pw_set(address.user, address.password)
    if address.is_tls and tls is not None:
        client.tls_set_context(tls.context())
    return client


def turn(client: Any, wake: socket.socket, pause_s: float) -> bool:
    """Wait at most ``pause_s`` for the network or a wake, then run the client.

    ``wake`` becomes readable when another thread wants attention; it is emptied. Returns False where the
    client has no connection any more.
    """
    sock = client.socket()
    if sock is None:
        return False
    if getattr(sock, "pending", int)():  # decrypted already: select does not see it
        pause_s = 0.0
    readers, writers = [sock, wake], [sock] if client.want_write() else []
    readable, writable, _ = select.select(readers, writers, [], pause_s)
    if wake in readable:
        with contextlib.suppress(BlockingIOError):
            while wake.recv(4096):
                pass
    if sock in readable or pause_s == 0.0:
        client.loop_read()
    if sock in writable or client.want_write():
        client.loop_write()
    client.loop_misc()
    return True
