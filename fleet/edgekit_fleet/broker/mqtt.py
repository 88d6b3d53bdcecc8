"""The fleet manager's own MQTT connection; the only file here that uses the MQTT library."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.addresses import shown, split_address
from edgekit.core.errors import ConfigError, LinkError

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

logger = logging.getLogger(__name__)

KEEPALIVE_S = 30
MAX_QUEUED = 65_536
MAX_INFLIGHT = 1000


@dataclass(frozen=True)
class Access:
    """How to reach a broker.

    Args:
        url: ``mqtt://host:port`` or ``mqtts://host:port``.
        user: User name, if the broker needs one.
        password: Its password.
        ca: CA of the broker's certificate.
        certificate: The fleet manager's certificate, if the broker needs one.
        key: Its key.
    """

    url: str
    user: str = ""
    password: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def address(self) -> tuple[str, int, bool]:
        """Return (host, port, whether it speaks TLS).

        Raises:
            ConfigError: The URL is not a broker's.
        """
        try:
            parts = split_address(self.url)
        except ValueError as problem:
            raise ConfigError(f"broker: {problem}") from problem
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ConfigError(f"broker '{shown(self.url)}': want mqtt://host:port or mqtts://host:port")
        is_tls = parts.scheme == "mqtts"
        return parts.hostname, parts.port or (8883 if is_tls else 1883), is_tls


@dataclass(frozen=True)
class Delivered:
    """A message as it arrived; ``connection`` is the number of the connection it came by."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    connection: int


class MqttLink:
    """One connection that is re-established whenever it breaks, with a thread of its own.

    Args:
        access: How to reach the broker.
        client_id: Unique among the broker's clients.
        subscribe: A topic filter to subscribe to at QoS 1, in a session that outlives the connection;
            messages are acknowledged by ``acknowledge`` only. Empty: no subscription.
        on_message: Called with each message, on the link's thread.
        on_connected: Called after each connection, on the link's thread.
    """

    def __init__(
        self,
        access: Access,
        client_id: str,
        *,
        subscribe: str = "",
        on_message: Callable[[Delivered], None] | None = None,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._access = access
        self._subscribe = subscribe
        self._on_message = on_message
        self._on_connected = on_connected
        self._refusal = ""
        self._connected = threading.Event()
        self._connection = 0
        self.dropped = 0
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=not subscribe,
            manual_ack=bool(subscribe),
        )
        self._client.max_queued_messages_set(MAX_QUEUED)
        self._client.max_inflight_messages_set(MAX_INFLIGHT)
        self._client.reconnect_delay_set(1, 10)
        self._client.on_connect = self._connect
        self._client.on_disconnect = self._disconnect
        self._client.on_message = self._message
        if access.user:
            self._client.username_pw_set(access.user, access.password)
        self._host, self._port, is_tls = access.address()
        self._tls = _tls(access) if is_tls else None
        if self._tls is not None:
            self._client.tls_set_context(self._tls)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected.is_set()

    def start(self, wait_s: float = 20.0) -> None:
        """Start connecting, and wait for the first connection.

        Raises:
            LinkError: There was no connection within ``wait_s``.
        """
        self._client.connect_async(self._host, self._port, KEEPALIVE_S)
        self._client.loop_start()
        if not self._connected.wait(wait_s):
            self.stop()
            raise LinkError(
                f"{self._access.url}: not connected within {wait_s:.0f} s: {self._refusal or 'no answer'}"
            )

    def stop(self) -> None:
        """Disconnect and end the thread; safe twice."""
        self._client.disconnect()
        self._client.loop_stop()
        self._connected.clear()

    def reload(self) -> None:
        """Use the renewed files of ``access`` from the next connection on."""
        if self._tls is not None and self._access.certificate is not None:
            self._tls.load_cert_chain(self._access.certificate, self._access.key)

    def publish(self, topic: str, body: bytes, *, qos: int, retain: bool) -> None:
        """Send without waiting; without a connection, or with a full queue, the message is dropped."""
        if not self._connected.is_set() or self._client.publish(topic, body, qos, retain).rc != 0:
            self.dropped += 1

    def acknowledge(self, message: Delivered) -> None:
        """Acknowledge a message to the broker.

        A message of an earlier connection is skipped: the broker delivers it again, and may use its
        number for another message.
        """
        if message.qos and message.connection == self._connection:
            self._client.ack(message.mid, message.qos)

    def _connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            logger.warning("%s refuses the fleet manager: %s", self._access.url, reason)
            return
        self._connection += 1
        if self._subscribe:
            client.subscribe(self._subscribe, qos=1)
        self._connected.set()
        self._on_connected()

    def _disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connected.is_set():
            logger.info("the connection to %s ended: %s", self._access.url, reason)
        self._connected.clear()

    def _message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        if self._on_message is not None:
            self._on_message(
                Delivered(message.topic, bytes(message.payload), message.qos, message.mid, self._connection)
            )


def _tls(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if access.certificate is not None:
            context.load_cert_chain(access.certificate, access.key)
    except (OSError, ssl.SSLError) as cause:
        raise ConfigError(f"TLS files for {access.url}: {cause}") from cause
    return context
