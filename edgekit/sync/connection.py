"""One connection to a broker, on its owner's thread; the only file that imports the MQTT client."""

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgekit.core.errors import EdgekitError, LinkError
from edgekit.sync.address import Address, Tls

logger = logging.getLogger(__name__)

KEEPALIVE_S = 60
CONNECT_S = 10.0
_CONNECT_TICK_S = 0.1
_CLOSED = "the broker closed the connection before it answered; a TLS or websocket port does that"


class Connection:
    """A connection that is opened again and again, by one thread; any thread may ``wake`` it.

    ``is_open``: there is a socket. ``is_ready``: the broker accepted the client. ``problem``: why it is not
    ready; empty where it is, or was never tried.
    """

    def __init__(self, address: Address, tls: Tls | None, client_id: str = "") -> None:
        self._address, self._tls, self._client_id = address, tls, client_id
        self.client: Any = None
        self.is_open = self.is_ready = False
        self.problem = ""
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)

    def use(self, address: Address) -> None:
        """Connect to another address from the next ``new_client`` on."""
        self._address = address

    def wake(self) -> None:
        """End a ``turn`` that waits."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_out.send(b"x")

    def new_client(self) -> Any:
        """Return an MQTT 3.1.1 client with a clean session, for ``open``."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=paho.MQTTv311)
        client.connect_timeout = CONNECT_S
        if self._address.user:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.is_tls and self._tls is not None:
            client.tls_set_context(self._tls.context())
        return client

    def open(self, client: Any, is_over: Callable[[], bool], *, topics: Sequence[str] = ()) -> None:
        """Connect, and subscribe to ``topics`` at QoS 0; ends not ready where ``is_over``.

        Raises:
            LinkError: The broker does not answer, or refuses.
            OSError: It cannot be reached.
        """

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                raise LinkError(f"the broker refused the connection: {reason}")
            if topics:
                client.subscribe([(topic, 0) for topic in topics])
            else:
                self._accepted()

        def on_subscribe(_client: Any, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
            if any(reason.is_failure for reason in reasons):
                raise LinkError(f"the broker refused the subscription to {', '.join(topics)}")
            self._accepted()

        client.on_connect, client.on_subscribe = on_connect, on_subscribe
        client.on_disconnect = self._on_disconnect
        self.client, self.is_open = client, True
        client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        deadline_s = time.monotonic() + CONNECT_S
        while self.is_open and not self.is_ready and not is_over():
            if not self._address.is_tls:
                self._look_at_greeting()
            self.turn(_CONNECT_TICK_S)
            if not self.is_ready and time.monotonic() > deadline_s:
                raise LinkError("the broker did not answer")
        if not self.is_ready and not is_over():
            raise LinkError(_CLOSED)

    def _accepted(self) -> None:
        self.is_ready, self.problem = True, ""
        logger.info("broker %s: connected", self._address.destination)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.is_open = False
        if self.is_ready:
            self.problem = f"the broker closed the connection: {reason}"
            logger.info("broker %s: %s", self._address.destination, self.problem)

    def _look_at_greeting(self) -> None:
        """Recognise a port that speaks TLS or HTTP.

        Raises:
            LinkError: It does.
        """
        sock = self.client.socket()
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

    def turn(self, pause_s: float) -> None:
        """Wait at most ``pause_s`` for the network or a ``wake``, then run the client."""
        client = self.client
        if (sock := client.socket()) is None:
            self.is_open = False
            return
        if getattr(sock, "pending", int)():  # decrypted already: select does not see it
            pause_s = 0.0
        writers = [sock] if client.want_write() else []
        readable, writable, _ = select.select([sock, self._wake_in], writers, [], pause_s)
        if self._wake_in in readable:
            with contextlib.suppress(BlockingIOError):
                while self._wake_in.recv(4096):
                    pass
        if sock in readable or pause_s == 0.0:
            client.loop_read()
        if sock in writable or client.want_write():
            client.loop_write()
        client.loop_misc()

    def failed(self, cause: Exception) -> str:
        """Keep an exception of ``open`` or ``turn`` as the ``problem``, with a fix where one is known."""
        self.problem = _reason(cause, is_tls=self._address.is_tls)
        return self.problem

    def leave(self, *, politely: bool) -> None:
        """End the connection, if there is one; the broker publishes the last will unless ``politely``."""
        client, self.client = self.client, None
        self.is_open = self.is_ready = False
        if client is not None:
            client.on_disconnect = None
            with contextlib.suppress(OSError, ValueError):
                if politely:
                    client.disconnect()
                if (sock := client.socket()) is not None:
                    sock.close()

    def close(self) -> None:
        """Free the sockets of ``wake``; safe to call twice."""
        self._wake_in.close()
        self._wake_out.close()


def _reason(cause: Exception, *, is_tls: bool) -> str:
    if isinstance(cause, EdgekitError):
        return cause.message
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the broker's certificate is refused: {cause.verify_message}; name its CA by the key 'ca'"
    if is_tls and isinstance(cause, (ssl.SSLError, ConnectionResetError)):
        return f"no TLS connection: {cause.strerror or cause}; a port that speaks no TLS does that"
    if isinstance(cause, ConnectionResetError):
        return _CLOSED
    return (cause.strerror if isinstance(cause, OSError) else "") or str(cause)
