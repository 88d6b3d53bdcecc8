"""A connection to a camera by TLS whose certificate is checked, or is the pinned one.

FFmpeg checks no certificate by default, and cannot pin one. So Python makes the connection, and FFmpeg speaks
to it in the clear, through a port of this machine that takes one connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import threading
from pathlib import Path

from edgekit.base.tls import trusting
from edgekit.core.errors import SourceError

_PIECE_BYTES = 1 << 16
_ACCEPT_S = 10.0


def fingerprint_of(certificate: bytes) -> str:
    """Return a certificate's SHA-256 in hex; ``certificate`` is DER."""
    return hashlib.sha256(certificate).hexdigest()


class TlsRelay:
    """Carries bytes between one client on ``port`` of this machine and a server by TLS, in a thread.

    Args:
        host: The server's.
        port: The server's.
        fingerprint: The SHA-256 of its certificate, in lower-case hex; only that one is accepted then.
        ca: The file of the CAs to trust without a fingerprint; None for the system's.
        timeout_s: For connecting and the handshake.

    Raises:
        SourceError: There is no server (``CONNECTION_FAILED``, ``TIMEOUT``), its certificate is refused, or
            the CA file cannot be used (``TLS``).
    """

    def __init__(self, host: str, port: int, *, fingerprint: str, ca: Path | None, timeout_s: float) -> None:
        self._server = _connected(host, port, fingerprint, ca, timeout_s)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tls-relay", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._listener, self._server, contextlib.suppress(OSError):
            self._listener.settimeout(_ACCEPT_S)
            client, _ = self._listener.accept()
            with client:
                self._listener.close()
                self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        server = self._server
        while not self._closing.is_set():
            ready = [server] if server.pending() else select.select([client, server], [], [], 0.5)[0]
            for source, target in ((client, server), (server, client)):
                if source in ready:
                    if not (data := source.recv(_PIECE_BYTES)):
                        return
                    target.sendall(data)

    def close(self) -> None:
        """End it; safe to call twice."""
        self._closing.set()
        for end in (self._server, self._listener):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)


def _connected(host: str, port: int, fingerprint: str, ca: Path | None, timeout_s: float) -> ssl.SSLSocket:
    context = _context(fingerprint, ca)
    try:
        plain = socket.create_connection((host, port), timeout_s)
    except TimeoutError:
        raise SourceError("no answer in time", fault="TIMEOUT") from None
    except OSError as cause:
        raise SourceError(cause.strerror or str(cause), fault="CONNECTION_FAILED") from cause
    try:
        server = context.wrap_socket(plain, server_hostname=host)
    except (OSError, ValueError) as cause:
        plain.close()
        raise SourceError(f"no TLS connection: {_reason(cause)}", fault="TLS", hint=_PIN) from cause
    seen = fingerprint_of(server.getpeercert(binary_form=True) or b"")
    if fingerprint and seen != fingerprint:
        server.close()
        raise SourceError(
            f"the camera's certificate has another fingerprint: {seen}",
            fault="TLS",
            hint="where the camera has a new certificate, pin that one",
        )
    return server


_PIN = "name the CA (ca), or pin the camera's own certificate (fingerprint, its SHA-256)"


def _reason(cause: Exception) -> str:
    return getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or str(cause)


def _context(fingerprint: str, ca: Path | None) -> ssl.SSLContext:
    try:
        context = trusting(ca)
    except OSError as cause:
        raise SourceError(f"ca: {ca} cannot be used: {cause}", fault="TLS") from cause
    if fingerprint:  # stands for every other check: cameras sign their own, for any name
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
