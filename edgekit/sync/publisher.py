"""A publish-only link to a broker that an ``mqtt`` sink names."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Session, nothing
from edgekit.sync.address import Address, Tls
from edgekit.sync.connection import Connection

logger = logging.getLogger(__name__)

WINDOW = 20
"""Messages under way, not yet acknowledged."""
TRIES = 3
"""Connections that a message sent alone may cost before it is dropped."""
MAX_DELAY_S = 60.0
_TICK_S = 1.0
_CONNECTING_S = 2.0  # time to connect again while closing


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
    on_sent: Callable[[], object]
    retain: bool = False
    on_kept: Callable[[], object] = nothing
    tries: int = 0


class Publisher:
    """Publishes to one broker at QoS 1, on a thread of its own; it subscribes to what a ``session`` names.

    Without a connection up to ``max_waiting`` messages are queued, then new ones are dropped. A message that
    made the broker close the connection ``TRIES`` times while sent alone is dropped, so that it does not
    block the others. All of it is counted; the first failed connect logs a warning with the broker's reason.
    ``tls`` None trusts the system's CAs where the address asks for TLS.

    Raises:
        ConfigError: A file of ``tls`` cannot be used.
    """

    def __init__(
        self,
        address: Address,
        tls: Tls | None = None,
        *,
        max_waiting: int = 1000,
        session: Session | None = None,
    ) -> None:
        self._address, self._max_waiting, self._session = address, max_waiting, session
        tls = tls or (Tls(None) if address.is_tls else None)
        if tls is not None:
            tls.context()  # raises now for a wrong file
        self._connection = Connection(address, tls)
        self._waiting: deque[_Message] = deque()
        self._flying: dict[int, _Message] = {}
        self._sent = self._dropped = self._refused = 0
        self._warned = ""
        self._suspects = 0
        self._ends_ns: int | None = None
        self._closing = threading.Event()
        self._settled = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"publish-{address.host}", daemon=True)
        self._thread.start()

    def publish(
        self,
        topic: str,
        body: bytes,
        on_sent: Callable[[], object] = nothing,
        *,
        retain: bool = False,
        on_kept: Callable[[], object] = nothing,
    ) -> None:
        """Queue a message without waiting.

        ``on_sent`` is called on the publisher's thread each time the payload is handed to the network;
        ``on_kept`` once, on any thread, when the broker has acknowledged it or it is given up; not where
        it is closed before.
        """
        with self._lock:
            is_closed = self._closing.is_set()
            is_full = is_closed or len(self._waiting) + len(self._flying) >= self._max_waiting
            if is_full:
                self._dropped += 1
            else:
                self._waiting.append(_Message(topic, body, on_sent, retain, on_kept))
        if not is_full:
            self._connection.wake()
        elif not is_closed:
            on_kept()

    def state(self) -> PublisherState:
        """Return the counts so far."""
        with self._lock:
            return PublisherState(
                is_connected=self._connection.is_ready,
                sent=self._sent,
                unsent=len(self._waiting) + len(self._flying),
                dropped=self._dropped,
                refused=self._refused,
                problem=self._connection.problem,
            )

    def settle(self, timeout_s: float = 5.0) -> None:
        """Wait at most ``timeout_s`` until the first connect has succeeded, with its session, or failed."""
        self._settled.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait at most ``timeout_s`` for queued messages (less if no connect succeeds), and close.

        Safe to call twice.
        """
        if not self._closing.is_set():
            has_failed = self._settled.is_set() and not self._connection.is_ready
            wait_s = min(timeout_s, _CONNECTING_S) if has_failed else timeout_s
            self._ends_ns = time.monotonic_ns() + int(wait_s * 1e9)
            self._closing.set()
            self._connection.wake()
            self._thread.join(wait_s + _TICK_S)  # a connect under way may take longer

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
            try:
                self._serve()
            except (OSError, EdgekitError, ValueError) as cause:  # ValueError: a closed socket in select
                self._warn(self._connection.failed(cause))
                self._settled.set()
            attempt = 1 if self._connection.is_ready else min(attempt + 1, 20)
            self._leave()
            # Full jitter: many devices must not reconnect at once.
            most_s = 1.0 if self._suspects else min(MAX_DELAY_S, 2.0**attempt)
            self._rest(random.random() * most_s)  # noqa: S311 - jitter needs no secret
        self._connection.close()

    def _warn(self, problem: str) -> None:
        if problem != self._warned and not self._is_over:
            logger.warning("broker %s: %s", self._address.destination, problem)
            self._warned = problem

    def _rest(self, delay_s: float) -> None:
        """Wait before the next try, less while closing."""
        if not self._closing.wait(delay_s):
            return
        ends_ns = self._ends_ns or 0
        time.sleep(max(0.0, min(0.1, (ends_ns - time.monotonic_ns()) / 1e9)))

    def _serve(self) -> None:
        """Publish until the connection ends, or all is sent."""
        client = self._connection.new_client()
        client.on_publish = self._on_publish
        client.max_inflight_messages_set(WINDOW)
        session = self._session
        if session is not None:
            client.will_set(*session.will, qos=1, retain=True)
            client.on_message = lambda _client, _data, message: session.on_message(
                message.topic, message.payload
            )
        self._connection.open(client, lambda: self._is_over, topics=session.topics if session else ())
        self._warned = ""
        if session is not None and self._connection.is_ready:
            session.on_ready()
        self._settled.set()
        while self._connection.is_open and not self._is_over:
            self._pump()
            self._connection.turn(_TICK_S if self._ends_ns is None else 0.05)

    def _pump(self) -> None:
        while len(self._flying) < (1 if self._suspects else WINDOW):
            with self._lock:
                if not self._waiting:
                    return
                message = self._waiting[0]  # it stays: ``unsent`` counts it until it is under way
            try:
                handed = self._connection.client.publish(
                    message.topic, message.body, qos=1, retain=message.retain
                )
            except ValueError as cause:  # over 256 MB
                self._set_aside(message, str(cause))
                with self._lock:
                    self._waiting.popleft()
                continue
            with self._lock:
                self._flying[handed.mid] = self._waiting.popleft()
            message.on_sent()

    def _set_aside(self, message: _Message, why: str) -> None:
        self._refused += 1
        logger.warning(
            "a message of %d bytes on %s is given up: %s", len(message.body), message.topic[:100], why
        )
        message.on_kept()

    def _leave(self) -> None:
        """End the connection, and requeue the messages under way."""
        was_ready, flying = self._connection.is_ready, list(self._flying.values())
        self._connection.leave(politely=was_ready)
        if flying and was_ready and not self._is_over:
            self._blame(flying)
        with self._lock:
            self._flying.clear()
            self._waiting.extendleft(reversed(flying))

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

    def _on_publish(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            message = self._flying.pop(mid, None)
            if message is not None:
                self._sent += 1
                self._suspects = max(0, self._suspects - 1)
        if message is not None:
            message.on_kept()
