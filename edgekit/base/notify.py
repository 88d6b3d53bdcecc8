"""Tells systemd that the service is ready, stops, and makes progress.

Source: sd_notify(3); a datagram to ``NOTIFY_SOCKET``.
"""

from __future__ import annotations

import logging
import socket

logger = logging.getLogger(__name__)


class Notifier:
    """Sends states to the service manager; does nothing where there is none.

    Args:
        address: ``NOTIFY_SOCKET``: a path, or an abstract name that begins with ``@``; may be empty.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    def tell(self, state: str) -> None:
        """Send one state, such as ``READY=1`` or ``WATCHDOG=1``."""
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError as cause:
            logger.warning("the service manager cannot be told %s: %s", state, cause)

    def close(self) -> None:
        """Free the socket; safe to call twice."""
        if self._socket is not None:
            self._socket.close()
