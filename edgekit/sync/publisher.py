"""A publish-only link to a broker that an ``mqtt`` sink names."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.core.errors import EdgekitError, LinkError
from edgekit.sync.address import Address, Tls
from edgekit.sync.mqtt import CONNECT_S, KEEPALIVE_S, new_client, turn

logger = logging.getLogger(__name__)

WINDOW = 20
"""Messages under way, not yet acknowledged."""
TRIES = 3
"""Connections that a message sent alone may cost before it is dropped."""
MAX_DELAY_S = 60.0
_TICK_S = 1.0
_CLOSED = "the broker closed the connection before it answered; a TLS or websocket port does that"
_CONNECTING_S = 2.0  # time to connect while closing, for messages published just after the start


class PublisherState(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of messages to one broker.

    ``sent``: acknowledged. ``unsent``: queued, or still queued when it was closed. ``dropped``: the queue was
    full. ``refused``: the broker closed the connection over them. ``problem``: why there is no connection.
    """

    is_connected: bool = False
    sent: int = 0
    unsent: int = 0
    dropped: int = 0
    refused: int = 0
    problem: str = ""


@dataclass(eq=False)
class _Message:
    topic: str
    body: bytes
    on_sent: Callable[[], None]
    tries: int = 0


class Publisher:
    """Publishes to one broker at QoS 1 and subscribes to nothing, on a thread of its own.

    Without a connection up to ``max_waiting`` messages are queued, then new ones are dropped. A message that
    made the broker close the connection ``TRIES`` times while sent alone is dropped, so that it does not
    block the others. All of it is counted; the first failed connect logs a warning with the broker's reason.
    ``tls`` None trusts the system's CAs where the address asks for TLS.

    Raises:
        ConfigError: A file of ``tls`` cannot be used.
    """

    def __init__(self, address: Address, tls: Tls | None = None, *, max_waiting: int = 1000) -> None:
        self._address, self._max_waiting = address, max_waiting
        self._tls = tls or (Tls(None) if address.is_tls else None)
        if self._tls is not None:
            self._tls.context()  # raises now for a wrong file
        self._waiting: deque[_Message] = deque()
        self._flying: dict[int, _Message] = {}
        self._sent = self._dropped = self._refused = 0
        self._problem = ""
        self._is_up = self._is_ready = False
        self._suspects = 0
        self._ends_ns: int | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._client: Any = None
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"publish-{address.host}", daemon=True)
        self._thread.start()

    def publish(self, topic: str, body: bytes, on_sent: Callable[[], None] = lambda: None) -> None:
        """Queue a message without waiting.

        ``on_sent`` is called on the publisher's thread each time the payload is handed to the network.
        """
        with self._lock:
            if self._closing.is_set() or len(self._waiting) + len(self._flying) >= self._max_waiting:
                self._dropped += 1
                return
            self._waiting.append(_Message(topic, body, on_sent))
        self._wake()

    def state(self) -> PublisherState:
        """Return the counts so far."""
        with self._lock:
            return PublisherState(
                is_connected=self._is_ready,
                sent=self._sent,
                unsent=len(self._waiting) + len(self._flying),
                dropped=self._dropped,
                refused=self._refused,
                problem=self._problem,
            )

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait at most ``timeout_s`` for queued messages (less without a connection), and close.

        Safe to call twice.
        """
        if not self._closing.is_set():
            wait_s = timeout_s if self._is_ready else min(timeout_s, _CONNECTING_S)
            self._ends_ns = time.monotonic_ns() + int(wait_s * 1e9)
            self._closing.set()
            self._wake()
            self._thread.join(wait_s + _TICK_S)  # a connect under way may take longer

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_out.send(b"x")

    # -- the publisher's thread

    @property
    def _is_over(self) -> bool:
        if not self._closing.is_set():
            return False
        is_late = self._ends_ns is not None and time.monotonic_ns() >= self._ends_ns
        return is_late or not (self._waiting or self._flying)

    def _run(self) -> None:
        attempt = 0
        while not self._is_over:
            problem = ""
            try:
                self._connect()
                self._serve()
            except (OSError, EdgekitError, ValueError) as cause:  # ValueError: a closed socket in select
                problem = _reason(cause, is_tls=self._address.is_tls)
            attempt = 1 if self._is_ready else min(attempt + 1, 20)
            self._leave(problem)
            # Full jitter: many devices must not reconnect at once.
            most_s = 1.0 if self._suspects else min(MAX_DELAY_S, 2.0**attempt)
            self._rest(random.random() * most_s)  # noqa: S311 - jitter needs no secret
        self._wake_out.close()
        self._wake_in.close()

    def _rest(self, delay_s: float) -> None:
        """Wait before the next try, less while closing."""
        if not self._closing.wait(delay_s):
            return
        ends_ns = self._ends_ns or 0
        time.sleep(max(0.0, min(0.1, (ends_ns - time.monotonic_ns()) / 1e9)))

    def _connect(self) -> None:
        client = new_client(self._address, self._tls, "")
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        client.max_inflight_messages_set(WINDOW)
        self._client, self._is_up = client, True
        client.connect(self._address.host, self._address.port, KEEPALIVE_S)

    def _serve(self) -> None:
        """Publish until the connection ends, or all is sent.

        Raises:
            LinkError: The broker does not answer, or refuses.
        """
        deadline_ns = time.monotonic_ns() + int(CONNECT_S * 1e9)
        while self._is_up and not self._is_over:
            if self._is_ready:
                self._pump()
            elif not self._address.is_tls:
                self._look_at_greeting()
            pause_s = _TICK_S if self._ends_ns is None else 0.05
            self._is_up &= turn(self._client, self._wake_in, pause_s)
            if not self._is_ready and time.monotonic_ns() > deadline_ns:
                raise LinkError("the broker did not answer")
        if not self._is_ready and not self._is_over:
            raise LinkError(_CLOSED)

    def _look_at_greeting(self) -> None:
        """Recognise a port that speaks TLS or HTTP.

        Raises:
            LinkError: It does.
        """
        sock = self._client.socket()
        if sock is None:
            return
        try:
            first = sock.recv(4, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if first[:1] in (b"\x15", b"\x16"):
            raise LinkError("this port speaks TLS: write mqtts:// for mqtt://")
        if first == b"HTTP":
            raise LinkError("this port speaks HTTP, as a broker's websocket port does: name its MQTT port")

    def _pump(self) -> None:
        while len(self._flying) < (1 if self._suspects else WINDOW):
            with self._lock:
                if not self._waiting:
                    return
                message = self._waiting.popleft()
            try:
                handed = self._client.publish(message.topic, message.body, qos=1)
            except ValueError as cause:  # over 256 MB
                self._set_aside(message, str(cause))
                continue
            with self._lock:
                self._flying[handed.mid] = message
            message.on_sent()

    def _set_aside(self, message: _Message, why: str) -> None:
        self._refused += 1
        logger.warning(
            "a message of %d bytes on %s is given up: %s", len(message.body), message.topic[:100], why
        )

    def _leave(self, problem: str) -> None:
        """End the connection, and requeue the messages under way."""
        client, was_ready, flying = self._client, self._is_ready, list(self._flying.values())
        self._is_up = self._is_ready = False
        if client is not None:
            client.on_disconnect = None
            with contextlib.suppress(OSError, ValueError):
                if was_ready:
                    client.disconnect()
                if (sock := client.socket()) is not None:
                    sock.close()
            self._client = None
        if flying and was_ready and not self._is_over:
            self._blame(flying)
        with self._lock:
            self._flying.clear()
            self._waiting.extendleft(reversed(flying))
        if problem and problem != self._problem and not self._is_over:
            logger.warning("broker %s:%d: %s", self._address.host, self._address.port, problem)
        self._problem = problem

    def _blame(self, flying: list[_Message]) -> None:
        """Find the message that costs the connection, by sending suspects one at a time."""
        if not self._suspects:
            self._suspects = len(flying)
            return
        flying[0].tries += 1
        if flying[0].tries >= TRIES:
            why = "the broker ends the connection over it; it may be over its limit of bytes"
            self._set_aside(flying.pop(), why)
            self._suspects -= 1

    # -- what the client calls, on the publisher's thread

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            raise LinkError(f"the broker refused the connection: {reason}")
        self._is_ready = True
        if self._problem:
            logger.info("broker %s:%d: connected", self._address.host, self._address.port)
        self._problem = ""

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            if self._flying.pop(mid, None) is not None:
                self._sent += 1
                self._suspects = max(0, self._suspects - 1)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._is_up = False
        if self._is_ready:
            logger.info("broker %s:%d closed the link: %s", self._address.host, self._address.port, reason)


def _reason(cause: Exception, *, is_tls: bool) -> str:
    """Return why there is no connection, with a fix where one is known."""
    if isinstance(cause, EdgekitError):
        return cause.message
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the broker's certificate is refused: {cause.verify_message}; name its CA by the key 'ca'"
    if is_tls and isinstance(cause, (ssl.SSLError, ConnectionResetError)):
        return f"no TLS connection: {cause.strerror or cause}; a port that speaks no TLS does that"
    if isinstance(cause, ConnectionResetError):
        return _CLOSED
    return (cause.strerror if isinstance(cause, OSError) else "") or str(cause)
