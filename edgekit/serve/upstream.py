"""Requests to a server that speaks the protocol, over connections that are kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from urllib.parse import urlsplit

from edgekit.core.errors import LinkError

Headers = Iterable[tuple[str, str]]
_KEPT = 64


class Upstream:
    """The server at a URL, ``http://host:port`` or ``unix:/path``; used in one event loop."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque(maxlen=_KEPT)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Headers = ()
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return status, headers and body of the answer.

        A connection whose request is cancelled is closed: so the server gives the work up.

        Raises:
            LinkError: The server cannot be reached, or ends the connection.
        """
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        try:
            if self._idle:
                try:
                    return await self._exchange(*self._idle.pop(), request)
                except (EOFError, ConnectionError):
                    pass  # most likely closed while it was idle
            return await self._exchange(*await self._connect(), request)
        except (EOFError, OSError) as cause:
            raise LinkError(f"{self._target} does not answer: {cause}") from cause

    async def close(self) -> None:
        """Close the connections that are kept."""
        while self._idle:
            _, writer = self._idle.pop()
            await _closed(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.startswith("unix:"):
            return await asyncio.open_unix_connection(self._target.removeprefix("unix:"))
        url = urlsplit(self._target)
        return await asyncio.open_connection(url.hostname, url.port)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        is_whole = False
        try:
            writer.write(request)
            await writer.drain()
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            is_whole = headers.get("connection", "").lower() != "close"
            return int(first.split(" ")[1]), headers, body
        finally:
            if is_whole and len(self._idle) < _KEPT:
                self._idle.append((reader, writer))
            else:
                writer.close()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
