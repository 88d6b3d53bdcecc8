"""One encrypted connection of a device on an asyncio loop, in a few kilobytes.

asyncio's own TLS keeps 256 KiB a connection, 2.5 GB for 10,000 devices.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast


class Socket(asyncio.Protocol):
    """Bytes in and out, encrypted where a context is given.

    Args:
        context: For TLS; None for plain TCP.
        host: The name that the broker's certificate must have.
        opened: Called once bytes can be sent.
        arrived: Called with the bytes that arrived.
        closed: Called once, with the reason, when the connection has ended.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None,
        host: str,
        *,
        opened: Callable[[], None],
        arrived: Callable[[bytes], None],
        closed: Callable[[str], None],
    ) -> None:
        self._opened, self._arrived, self._closed = opened, arrived, closed
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._is_open = self._is_given_up = False
        self._reason = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        if self._is_given_up:
            self._transport.abort()
        else:
            self._continue()

    def data_received(self, data: bytes) -> None:
        """Decrypt, and pass on what arrived."""
        if self._tls is None:
            self._arrived(data)
            return
        self._incoming.write(data)
        self._continue()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._closed(self._reason or str(exc or "closed by the broker"))

    def send(self, data: bytes) -> None:
        """Send bytes; without effect once the connection has ended."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._tls is None:
            self._transport.write(data)
            return
        self._tls.write(data)
        self._flush()

    def abort(self) -> None:
        """End the connection without a word, as a network that is gone does."""
        self._is_given_up = True
        if self._transport is not None:
            self._transport.abort()

    def _continue(self) -> None:
        try:
            if not self._is_open:
                if self._tls is not None:
                    self._tls.do_handshake()
                self._is_open = True
                self._flush()
                self._opened()
            while self._tls is not None and (data := self._tls.read(65_536)):
                self._arrived(data)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError) as cause:
            self._reason = str(cause)
            self.abort()
        self._flush()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
