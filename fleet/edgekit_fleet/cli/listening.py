"""A listening socket that bounds how many connections there are, in all and from one address.

Each connection costs memory before it has sent a byte (with TLS a quarter of a megabyte in asyncio). One
beyond a bound is closed at once, and the log says so, at most once a minute.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from edgekit.core.errors import StorageError

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 1024
MAX_TLS_CONNECTIONS = 256
BACKLOG = 2048
_LOG_EVERY_S = 60.0


def listen(host: str, port: int, *, is_tls: bool) -> BoundedListener:
    """Return a socket that listens on an address.

    Raises:
        StorageError: The address is taken, or is not one of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = BoundedListener(family, MAX_TLS_CONNECTIONS if is_tls else MAX_CONNECTIONS)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise StorageError(
            f"{host}:{port}: {cause.strerror}", hint="choose another --host or --port"
        ) from cause
    return listener


class _Connection(socket.socket):
    """An accepted connection; ``closed`` is called once, when it is closed."""

    closed: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it."""
        super().close()
        closed, self.closed = self.closed, None
        if closed is not None:
            closed()


class BoundedListener(socket.socket):
    """Accepts up to ``most`` connections at a time, half of them from one address.

    ``accept`` must be called from one thread, which closes the connections too: asyncio's loop.
    """

    def __init__(self, family: socket.AddressFamily, most: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most = most
        self._open: Counter[str] = Counter()
        self._logged_s = -_LOG_EVERY_S

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and its address.

        Raises:
            BlockingIOError: There is none, or it was closed at once because there are too many.
        """
        plain, address = super().accept()
        host = str(address[0])
        if self._open.total() >= self._most or self._open[host] >= self._most // 2:
            plain.close()
            self._log(host)
            raise BlockingIOError
        connection = _Connection(plain.family, plain.type, plain.proto, fileno=plain.detach())
        connection.closed = lambda: self._forget(host)
        self._open[host] += 1
        return connection, address

    def _forget(self, host: str) -> None:
        self._open[host] -= 1
        if self._open[host] <= 0:
            del self._open[host]

    def _log(self, host: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            logger.warning("too many connections (%d): closed one from %s", self._open.total(), host)
