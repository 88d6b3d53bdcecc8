"""Requests to a server that speaks the protocol, over connections that are kept."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Iterable
from urllib.parse import urlsplit

from edgekit.core.errors import LinkError, UsageError

Headers = Iterable[tuple[str, str]]
_KEPT, _KEPT_S = 64, 30.0
"""Idle connections: how many, and for how long. Servers close them too, after 60 s or more."""
_LINE = re.compile(r"[\t -~\x80-\xff]*")
"""What may stand in a line of a request: no end of it, which would begin another request."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def server_of(url: str) -> str:
    """Return the part of an address that names the server.

    >>> server_of("http://127.0.0.1:8000/v2/models/door")
    'http://127.0.0.1:8000'

    Raises:
        UsageError: It is not ``http://HOST:PORT``, perhaps with a path.
    """
    try:
        parts = urlsplit(url)
        is_right = parts.scheme == "http" and bool(parts.hostname) and bool(parts.port) and not parts.username
    except ValueError:
        is_right = False
    if not is_right:
        raise UsageError(f"want http://HOST:PORT, got {url!r}")
    return f"http://{parts.netloc}"


class Upstream:
    """The server at a URL, ``http://host:port`` or ``unix:/path``; used in one event loop."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._idle: deque[tuple[Connection, float]] = deque(maxlen=_KEPT)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Headers = ()
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, headers and body of the answer.

        It is sent once, unless it is a GET: a server that ends without an answer may have begun it. A
        connection whose request is cancelled is closed: so the server gives the work up.

        Raises:
            LinkError: The server cannot be reached, ends the connection, or does not speak HTTP.
            UsageError: The path or a header has a character that no request can have.
        """
        request = _written(method, path, body, headers)
        try:
            if (kept := self._kept()) is not None:
                try:
                    return await self._exchange(*kept, request)
                except (EOFError, ConnectionError):
                    if method != "GET":
                        raise
            return await self._exchange(*await self._connect(), request)
        except (EOFError, OSError) as cause:
            raise LinkError(f"{self._target} does not answer: {cause}") from cause
        except (ValueError, LookupError, asyncio.LimitOverrunError) as cause:
            raise LinkError(f"{self._target} answers what is not HTTP: {cause}") from cause

    async def tell(self, path: str, body: bytes, headers: Headers) -> int:
        """Send a POST on a connection of its own, and return the answer's status; its body is not read.

        Raises:
            LinkError, UsageError: As for ``ask``.
        """
        request = _written("POST", path, body, [*headers, ("connection", "close")])
        try:
            reader, writer = await self._connect()
            try:
                return (await _sent(reader, writer, request))[0]
            finally:
                writer.close()
        except (EOFError, OSError) as cause:
            raise LinkError(f"{self._target} does not answer: {cause}") from cause
        except (ValueError, LookupError, asyncio.LimitOverrunError) as cause:
            raise LinkError(f"{self._target} answers what is not HTTP: {cause}") from cause

    async def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            (_, writer), _ = self._idle.pop()
            await _closed(writer)

    def _kept(self) -> Connection | None:
        """Return a connection that is open still, as far as is known; close those that are not."""
        while self._idle:
            (reader, writer), since_s = self._idle.pop()
            if not reader.at_eof() and time.monotonic() - since_s < _KEPT_S:
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> Connection:
        if self._target.startswith("unix:"):
            return await asyncio.open_unix_connection(self._target.removeprefix("unix:"))
        url = urlsplit(self._target)
        return await asyncio.open_connection(url.hostname, url.port)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        is_whole = False
        try:
            status, headers = await _sent(reader, writer, request)
            body = await _body(reader, headers)
            is_whole = headers.get("connection", "").lower() != "close"
            return status, headers, body
        finally:
            if is_whole and len(self._idle) < _KEPT:
                self._idle.append(((reader, writer), time.monotonic()))
            else:
                writer.close()


def _written(method: str, path: str, body: bytes, headers: Headers) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if " " in path or not all(map(_LINE.fullmatch, lines)):
        raise UsageError("the path or a header of a request has a space, an end of line, or another such")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _sent(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[str, str]]:
    """Send a request; return status and headers of its answer."""
    writer.write(request)
    await writer.drain()
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    pieces = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return b"".join(pieces)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
