"""Answers a quick model's request in the callback that reads its last byte: no task, no event, one write.

A request that ends in a millisecond costs more to schedule than to answer. So where uvicorn's parser is
httptools, the body of a small inference request is kept in the connection's protocol, and the model is run
there when it is quick and idle. Whatever else comes (another path, a slow or busy model, a body without a
length, a picture) goes uvicorn's way, from its first byte.
"""

from __future__ import annotations

import logging
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from edgekit.serve.app import App
    from edgekit.serve.reply import Reply

logger = logging.getLogger(__name__)
_MOST_BYTES = 1 << 20
_STATUS = {200: b"HTTP/1.1 200 OK\r\n"}
_PARSER = "httptools_impl"


def with_fast_path(base: Any, app: App, body_s: float) -> Any:
    """Return uvicorn's protocol class with the fast path to an application; unchanged for another parser.

    ``body_s`` is how long a body may take before it goes uvicorn's way, which has its own limits.
    """
    if _PARSER not in base.__module__:
        return base
    return type("FastProtocol", (_FastPath, base), {"base": base, "served": app, "body_s": body_s})


class _FastPath:
    """What is put before uvicorn's protocol. ``quick`` is how many requests went this way."""

    base: ClassVar[Any]
    served: ClassVar[App]
    body_s: ClassVar[float]
    quick = 0
    _length: int | None = None
    _timer: TimerHandle | None = None
    _pieces: list[bytes]
    _fields: dict[bytes, bytes]
    # of uvicorn's protocol
    url: bytes
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    cycle: Any
    pipeline: Any
    flow: Any
    parser: Any
    transport: Any
    loop: Any
    expect_100_continue: bool

    def on_headers_complete(self) -> None:
        self._length = self._quick_length()
        if self._length is None:
            self.base.on_headers_complete(self)
        else:
            self._pieces = []

    def _quick_length(self) -> int | None:
        """Return the length of a body that is to be kept here."""
        is_free = (self.cycle is None or self.cycle.response_complete) and not self.pipeline
        if not is_free or self.flow.write_paused or self.expect_100_continue:
            return None
        if (
            not self.url.endswith(b"/infer")
            or self.parser.get_method() != b"POST"
            or not self.parser.should_keep_alive()
        ):
            return None
        self._fields = fields = dict(self.headers)
        stated = fields.get(b"content-length", b"")
        if not stated.isdigit() or len(stated) > 7 or b"content-encoding" in fields:
            return None
        length = int(stated)
        is_small = length <= _MOST_BYTES and self.served.is_quick(self.url, fields, self.client)
        return length if is_small and self.served.bodies.try_reserve(length) else None

    def on_body(self, body: bytes) -> None:
        if self._length is None:
            self.base.on_body(self, body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._length is None:
            self.base.on_message_complete(self)
            return
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            reply = self.served.at_once(self.url, self._fields, self.client, body)
        except Exception:
            logger.exception("a request ended in a bug")
            self._end()
            self.transport.close()
            return
        if reply is None:
            self._go_on()
            self.base.on_message_complete(self)
            return
        self._end()
        self.quick += 1
        self.transport.write(_response(reply))

    def data_received(self, data: bytes) -> None:
        self.base.data_received(self, data)
        if self._length is not None and self._timer is None:  # the rest of the body is still to come
            self._timer = self.loop.call_later(self.body_s, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self.base.connection_lost(self, exc)

    def _end(self) -> None:
        if self._length is not None:
            self.served.bodies.held_bytes -= self._length
            self._length = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_on(self) -> None:
        """Give uvicorn what has come."""
        self._end()
        self.base.on_headers_complete(self)
        for piece in self._pieces:
            self.base.on_body(self, piece)


def _response(reply: Reply) -> bytes:
    head = [_STATUS.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status]
    head += [b"%b: %b\r\n" % header for header in reply.headers]
    head.append(b"content-length: %d\r\n\r\n" % len(reply.body))
    head.append(reply.body)
    return b"".join(head)
