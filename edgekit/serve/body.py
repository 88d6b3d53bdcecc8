"""Reads request bodies within bounds: of each body, and of all that are in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from edgekit.serve.errors import ClientGoneError, HttpError
from edgekit.serve.ports import Limits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def hung_up(receive: Receive) -> None:
    """Wait until the client hangs up; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Bodies:
    """The memory that all request bodies take, within ``limits``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held_bytes = 0
        self.refused = 0

    @contextmanager
    def holding(self) -> Iterator[Body]:
        """Yield one body, whose memory counts until the end of the block."""
        body = Body(self, self._limits)
        try:
            yield body
        finally:
            body.release()

    def reserve(self, more_bytes: int) -> None:
        """Count more memory.

        Raises:
            HttpError: 429: all bodies together are at their bound.
        """
        if not self.try_reserve(more_bytes):
            self.refused += 1
            raise HttpError(429, "overloaded: too many request bodies are held", ((b"retry-after", b"1"),))

    def try_reserve(self, more_bytes: int) -> bool:
        """Count more memory, unless all bodies together are at their bound."""
        if self.held_bytes + more_bytes > self._limits.held_bytes:
            return False
        self.held_bytes += more_bytes
        return True


class Body:
    """One request's body."""

    def __init__(self, bodies: Bodies, limits: Limits) -> None:
        self._bodies, self._limits = bodies, limits
        self.reserved_bytes = 0

    def release(self) -> None:
        """Count its memory no more."""
        self._bodies.held_bytes -= self.reserved_bytes
        self.reserved_bytes = 0

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes], most_bytes: int = 0) -> bytes:
        """Return the body.

        Args:
            receive: ASGI's.
            headers: The request's, lower-case.
            most_bytes: A lower limit than that of all requests; 0 for none.

        Raises:
            HttpError: 415: it is compressed (a few bytes could become gigabytes). 413: it is too
                large. 429: too many are in memory. 408: it does not arrive in time.
            ClientGoneError: The client hung up.
        """
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HttpError(415, "compressed bodies are not supported: send it without Content-Encoding")
        most = min(most_bytes or self._limits.body_bytes, self._limits.body_bytes)
        stated = headers.get(b"content-length", b"")
        if stated.isdigit():
            self._grow(int(stated[:20]), most)
        task = asyncio.current_task()
        assert task is not None
        is_late = []

        def expire() -> None:  # a timer is 20 us cheaper than wait_for's task
            is_late.append(True)
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self._limits.body_s, expire)
        try:
            return await self._gather(receive, most)
        except asyncio.CancelledError:
            if is_late:
                raise HttpError(408, f"the body did not arrive within {self._limits.body_s:g} s") from None
            raise
        finally:
            timer.cancel()

    async def _gather(self, receive: Receive, most: int) -> bytes:
        pieces, length = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            length += len(piece)
            self._grow(length, most)
            pieces.append(piece)
            if not message.get("more_body"):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _grow(self, length: int, most: int) -> None:
        if length > most:
            raise HttpError(413, f"the body is too large: at most {most} bytes are allowed")
        if length > self.reserved_bytes:
            self._bodies.reserve(length - self.reserved_bytes)
            self.reserved_bytes = length
