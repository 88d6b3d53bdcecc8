"""Reports to systemd that the service is ready, is stopping, or makes progress.

Source: sd_notify(3); a datagram to ``NOTIFY_SOCKET``.
"""

import logging
import socket

logger = logging.getLogger(__name__)


class Notifier:
    """Sends states to the service manager; without one it does nothing.

    ``address`` is ``NOTIFY_SOCKET``: a path, an abstract name that begins with ``@``, or empty.
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
            logger.warning("cannot send %s to the service manager: %s", state, cause)

    def close(self) -> None:
        """Free the socket; safe to call twice."""
        if self._socket is not None:
            self._socket.close()
