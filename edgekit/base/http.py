"""The HTTP client for the fleet: bounded in bytes and time, no redirects or proxies, only the fleet's CA."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from edgekit.base.tls import trusting
from edgekit.core.errors import (
    ConfigError,
    EdgekitError,
    HashMismatchError,
    LinkError,
    ServerError,
    TrustError,
)

_PIECE_BYTES = 64 << 10
_SILENCE_S = 15.0
_LEAST_BYTES = 4096


class HttpError(ServerError):
    """A response with an unexpected status."""

    code = ServerError.code

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """A server's answer: its headers by name in any case, and its body as it comes."""

    status: int
    headers: Message
    pieces: Iterator[bytes]


class Patience(msgspec.Struct, frozen=True):
    """Time limits: a monotonic deadline, and at least 4 KiB in each ``stall_s``."""

    until_s: float
    stall_s: float
    now_s: Callable[[], float] = time.monotonic

    def left_s(self) -> float:
        """Return the seconds left.

        Raises:
            LinkError: The time is up.
        """
        left = self.until_s - self.now_s()
        if left <= 0:
            raise LinkError("the time for this job is used up")
        return left


class _TimedReader(io.RawIOBase):
    """What a connection receives; all waits of one ``allow`` together are no longer than its own limit."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._limit_s = connection, connection.gettimeout() or _SILENCE_S
        self._raw = connection.makefile("rb", buffering=0)
        self.allow()

    def allow(self) -> None:
        """Begin a new wait."""
        self._until_s = time.monotonic() + self._limit_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head, and each piece, must come in time: also where a byte comes now and then."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.timed = _TimedReader(sock)
        self.fp = io.BufferedReader(self.timed)


class Web:
    """A client for one server, over HTTP or HTTPS.

    ``ca``: the only trusted CA; None trusts the system's. ``context`` replaces it. ``silence_s`` is the
    longest wait for the connection, for the answer's whole head, and for each piece.
    """

    def __init__(
        self,
        ca: Path | None,
        patience: Patience,
        context: ssl.SSLContext | None = None,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._patience, self._silence_s = patience, silence_s
        self._context = context
        if context is None and ca is not None and ca.exists():
            try:
                self._context = trusting(ca)
            except (OSError, ssl.SSLError) as cause:
                raise ConfigError(f"{ca} is not a CA certificate: {cause}") from cause

    def get(self, url: str, max_bytes: int) -> bytes:
        """Return the content at a URL.

        Raises:
            HttpError: The status is not 200.
            HashMismatchError: It is longer than ``max_bytes`` (endless data).
            LinkError: It cannot be reached, breaks off, or is too slow.
        """
        pieces = (piece for _, piece in self.read(url, 0))
        return _joined(pieces, max_bytes, HashMismatchError(f"{url}: longer than {max_bytes} bytes"))

    def read(self, url: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) from ``start`` on; from 0 if the server does not support ranges.

        Raises:
            HttpError: The status is neither 200 nor 206.
            LinkError: It cannot be reached, breaks off, or is too slow.
        """
        with self.opened(url, {"Range": f"bytes={start}-"} if start else {}) as answer:
            if answer.status not in (200, 206):
                raise HttpError(answer.status, f"{url}: the server answered {answer.status}")
            offset = start if answer.status == 206 else 0
            if answer.status == 206 and not _begins_at(answer.headers, start):
                raise HttpError(206, f"{url}: the server sent another range than requested")
            for piece in answer.pieces:
                yield offset, piece
                offset += len(piece)

    @contextmanager
    def opened(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Yield the answer to a GET of any status, whose body is read as it comes.

        Raises:
            LinkError: It cannot be reached; so does ``pieces``, where it breaks off or is too slow.
            TrustError: Its certificate is not accepted.
        """
        with (
            closing(self._connection(url)) as connection,
            closing(self._ask(connection, "GET", url, None, headers)) as response,
        ):
            yield Answer(response.status, response.headers, self._pieces(response, url))

    def send(
        self,
        method: str,
        url: str,
        max_bytes: int,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send a request and return (status, answer); a body in pieces needs the header Content-Length.

        Raises:
            LinkError: It cannot be reached, breaks off, or answers more than ``max_bytes``.
            TrustError: Its certificate is not accepted.
        """
        too_long = LinkError(f"{url}: the answer is longer than {max_bytes} bytes")
        with (
            closing(self._connection(url)) as connection,
            closing(self._ask(connection, method, url, body, headers or {})) as response,
        ):
            return response.status, _joined(self._pieces(response, url), max_bytes, too_long)

    def _connection(self, url: str) -> http.client.HTTPConnection:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as cause:
            raise ConfigError(f"{url!r}: {cause}") from cause
        timeout_s = min(self._silence_s, self._patience.left_s())
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"want an http or https URL, got {url!r}")
        connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._context)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )
        connection.response_class = _Response
        return connection

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        body: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
    ) -> _Response:
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(method, path or "/", body, {"Accept-Encoding": "identity", **headers})
            return cast("_Response", connection.getresponse())
        except ssl.SSLCertVerificationError as cause:
            raise certificate_error(url, cause) from cause
        except http.client.BadStatusLine as cause:  # whose text is whatever answers
            empty = isinstance(cause, http.client.RemoteDisconnected)
            raise LinkError(f"{url}: {cause if empty else 'what answers does not speak HTTP'}") from cause
        except http.client.InvalidURL as cause:  # whose text has the path and the query
            raise LinkError(f"{url}: its path has a space or a control character") from cause
        except (OSError, http.client.HTTPException, ValueError) as cause:
            raise LinkError(f"{url}: {cause or type(cause).__name__}") from cause

    def _pieces(self, response: _Response, url: str) -> Iterator[bytes]:
        patience = self._patience
        since_s, since_bytes = patience.now_s(), 0
        while True:
            patience.left_s()
            response.timed.allow()
            try:
                piece = response.read1(_PIECE_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as cause:
                raise LinkError(f"{url}: broke off: {cause or type(cause).__name__}") from cause
            if not piece:
                if response.length:
                    raise LinkError(f"{url}: broke off with {response.length} bytes to come")
                return
            since_bytes += len(piece)
            if patience.now_s() - since_s > patience.stall_s:
                if since_bytes < _LEAST_BYTES:
                    raise LinkError(f"{url}: {since_bytes} bytes in {patience.stall_s:g} s are too few")
                since_s, since_bytes = patience.now_s(), 0
            yield piece


def _joined(pieces: Iterable[bytes], max_bytes: int, too_long: EdgekitError) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > max_bytes:
            raise too_long
    return bytes(content)


def certificate_error(url: str, cause: ssl.SSLCertVerificationError) -> TrustError:
    """Return the error for a server certificate that was not accepted: its name, or its issuer.

    Source: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL.
    """
    host = urlsplit(url).hostname
    if cause.verify_code in (62, 64):
        return TrustError(
            f"{url}: the server's certificate is not for {host!r}: {cause.verify_message}",
            hint=f"use the name in the certificate, or start the fleet manager with --public-host {host}",
        )
    return TrustError(f"{url}: the server's certificate is not from the fleet's CA: {cause.verify_message}")


def _begins_at(headers: Message, start: int) -> bool:
    return str(headers.get("Content-Range") or "").strip().lower().startswith(f"bytes {start}-")
