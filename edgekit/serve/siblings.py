"""The hosts of other models behind the same address: requests for them, and their parts of documents.

A connection to another host is one end of a socket pair, whose other end the front hands over as it does
with a client's. So the host answers as to a client, or the front says why it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from edgekit.serve.body import Receive
from edgekit.serve.errors import HttpError
from edgekit.serve.hosting import Call, Row, Table
from edgekit.serve.reply import Reply
from edgekit.serve.views import Part

logger = logging.getLogger(__name__)
PART = b"part"
"""The query of ``/status`` that asks for one host's part."""
FORWARDED = b"x-edgekit-forwarded"
"""Of a request that another process has passed on: the version that is to answer it, empty for a page."""
REMOTE = b"x-edgekit-remote"
"""Says that a request comes from another machine, where it was passed on by a process of this one."""
CLIENT = b"x-edgekit-client"
_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_PART_S = 0.5
_PIECE_BYTES = 256 << 10
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"upgrade", b"expect", b"transfer-encoding"})
_Headers = Iterable[tuple[bytes, bytes]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]


class Siblings:
    """The other hosts; none without ``call``.

    ``call(whom, connection)`` has the front hand a connection to another host, and returns whether it
    could be asked to.
    """

    def __init__(
        self, call: Callable[[Call, socket.socket], bool] = lambda _whom, _connection: False
    ) -> None:
        self.table = Table(())
        self._call = call

    async def forward(self, whom: Call, scope: Mapping[str, Any], receive: Receive, send: _Send) -> None:
        """Have another host answer a request, which may be a stream without an end.

        Raises:
            HttpError: 503: the host ended before it answered.
        """
        reader, writer = await self._connect(whom)
        task = asyncio.get_running_loop().create_task(_send_request(whom, scope, receive, writer))
        has_begun = False
        try:
            status, headers = await _read_head(reader)
            kept = [pair for pair in headers if pair[0] not in _HOP_BY_HOP]
            await send({"type": "http.response.start", "status": status, "headers": kept})
            has_begun = True
            if scope["method"] != "HEAD":
                async for piece in _pieces(reader, headers):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})  # a cut answer is shorter than it says
        except (EOFError, OSError) as cause:
            has_client = not task.done() or task.exception() is not None
            if has_client and not has_begun:
                raise _gone(whom) from cause
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
            writer.close()

    async def parts(self, own: Part, headers: _Headers) -> list[Part]:
        """Return ``own`` and what the other hosts say of their models, in the table's order.

        A host that does not answer within half a second is reported as the front knows it.
        """
        names = {(row["name"], row["version"]) for row in own.models}

        async def part(row: Row) -> Part:
            return own if (row.name, row.version) in names else await self._part(row, headers)

        return await asyncio.gather(*map(part, self.table.rows)) if self.table.rows else [own]

    async def _part(self, row: Row, headers: _Headers) -> Part:
        try:
            if row.is_answering:
                return await asyncio.wait_for(self._fetch(row, headers), _PART_S)
        except (EOFError, OSError, HttpError, msgspec.DecodeError, asyncio.TimeoutError) as cause:
            logger.warning("the host of %s %s does not say how it is: %r", row.name, row.version, cause)
            why = {"state": "UNAVAILABLE", "reason": "its process does not answer"}
            row = msgspec.structs.replace(row, **why)
        return Part.of_row(row)

    async def _fetch(self, row: Row, headers: _Headers) -> Part:
        reply = await self.ask(row, "GET", b"/status?" + PART, headers)
        return msgspec.json.decode(reply.body, type=Part)

    async def ask(self, row: Row, method: str, target: bytes, headers: _Headers, body: bytes = b"") -> Reply:
        """Send a request to the host of another model, and return its answer.

        Raises:
            HttpError: 503: there is no such host.
            EOFError, OSError: It ended.
        """
        reader, writer = await self._connect(Call(row.name, row.version))
        try:
            length = (b"content-length", b"%d" % len(body))
            writer.write(_head(method, target, (*headers, length), row.version) + body)
            status, answered = await _read_head(reader)
            return Reply(await reader.readexactly(_length(answered)), status, tuple(answered))
        finally:
            writer.close()

    async def repeat(
        self, own: Iterable[tuple[str, str]], target: bytes, body: bytes, headers: _Headers
    ) -> None:
        """Send a POST to every other process, each once; one that does not answer is logged.

        ``own`` are the names and versions of this process's models.
        """
        mine, others = set(own), dict[object, Row]()
        for row in self.table.rows:
            if (row.name, row.version) not in mine and row.is_answering:
                others.setdefault(row.pid or row, row)
        asks = [
            asyncio.wait_for(self.ask(row, "POST", target, headers, body), _PART_S) for row in others.values()
        ]
        outcomes = await asyncio.gather(*asks, return_exceptions=True)
        for row, outcome in zip(others.values(), outcomes, strict=True):
            if isinstance(outcome, BaseException):
                logger.warning("the host of %s %s has not heard of it: %r", row.name, row.version, outcome)

    async def _connect(self, whom: Call) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        with theirs:
            if self._call(whom, theirs):
                return await asyncio.open_unix_connection(sock=ours)
        ours.close()
        raise _gone(whom)


async def _send_request(
    whom: Call, scope: Mapping[str, Any], receive: Receive, writer: asyncio.StreamWriter
) -> None:
    """Send a client's request on, wait for the client to hang up, and then hang up too."""
    query = scope["query_string"]
    headers = [pair for pair in scope["headers"] if pair[0] not in _HOP_BY_HOP]
    client = scope.get("client")
    if client and not any(name == CLIENT for name, _ in headers):
        headers.append((CLIENT, client[0].encode()))
    is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    if is_chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    if not is_local(client, dict(headers)):
        headers.append((REMOTE, b"1"))
    target = scope["raw_path"] + (b"?" + query if query else b"")
    writer.write(_head(scope["method"], target, headers, whom.version))
    is_sent = False
    while (message := await receive())["type"] != "http.disconnect":
        piece = message.get("body", b"")
        if is_chunked and piece:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        is_last = not message.get("more_body") and not is_sent
        writer.write(piece + b"0\r\n\r\n" if is_chunked and is_last else piece)
        await writer.drain()
        is_sent |= is_last
    writer.close()


def is_local(client: tuple[str, int] | None, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request comes from this machine, maybe through another process of the server."""
    is_near = client is None or client[0] in _LOOPBACK or client[0].startswith("127.")
    return is_near and REMOTE not in headers


def _head(method: str, target: bytes, headers: _Headers, version: str) -> bytes:
    own = (b"connection", b"close"), (FORWARDED, version.encode())
    lines = b"".join(b"%b: %b\r\n" % pair for pair in (*headers, *own))
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, lines)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[bytes, bytes]]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    pairs = (line.partition(b": ") for line in lines)
    return int(first.split(b" ", 2)[1]), [(name.lower(), value) for name, _, value in pairs]


async def _pieces(reader: asyncio.StreamReader, headers: _Headers) -> AsyncIterator[bytes]:
    """Yield an answer's body, of a known length or in chunks; a cut one raises nothing in the first case."""
    if dict(headers).get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield (await reader.readexactly(size + 2))[:size]
        return
    left = _length(headers)
    while left and (piece := await reader.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece


def _length(headers: _Headers) -> int:
    return int(dict(headers)[b"content-length"])


def _gone(whom: Call) -> HttpError:
    what = f"pipeline {whom.pipeline!r}" if whom.pipeline else f"model {whom.model!r}"
    message = f"{what} is not ready: its process ended; it is opened again"
    return HttpError(503, message, ((b"retry-after", b"1"),))
