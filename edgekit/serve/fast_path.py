"""Takes small inference requests from uvicorn's parser to the model's lane, and writes their answers.

A request that ends in a millisecond costs more to schedule than to answer. So where uvicorn's parser is
httptools, the body of a small inference request is kept in the connection's protocol and goes from there to
the lane: no task, no event, one write. Whatever else comes (another path, a model of another process, a body
without a length or of more than 1 MiB) goes uvicorn's way, from its first byte.
"""

from __future__ import annotations

import functools
import logging
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, ClassVar

from edgekit.serve.reply import Reply

if TYPE_CHECKING:
    from edgekit.serve.app import App
    from edgekit.serve.lane import Asked
    from edgekit.serve.ports import Limits

logger = logging.getLogger(__name__)
_MOST_BYTES = 1 << 20
_STATUS = {200: b"HTTP/1.1 200 OK\r\n"}
_PARSER = "httptools_impl"


def with_fast_path(base: Any, app: App, limits: Limits) -> Any:
    """Return uvicorn's protocol class with the fast path to an application; unchanged for another parser.

    A body that takes longer than ``limits.body_s`` goes uvicorn's way, which has its own limits.
    """
    if _PARSER not in base.__module__:
        return base
    most = min(_MOST_BYTES, limits.body_bytes)
    given = {"base": base, "served": app, "body_s": limits.body_s, "most_bytes": most}
    return type("FastProtocol", (_FastPath, base), given)


class _Turn:
    """Stands where uvicorn keeps the request that it answers: what comes after it waits."""

    response_complete = False
    keep_alive = True
    disconnected = False

    @property
    def message_event(self) -> _Turn:
        """What uvicorn sets when the client hangs up."""
        return self

    def set(self) -> None:
        """Do nothing: ``_FastPath.connection_lost`` gives the request up."""


class _FastPath:
    """What is put before uvicorn's protocol. ``quick`` is how many requests went this way."""

    base: ClassVar[Any]
    served: ClassVar[App]
    body_s: ClassVar[float]
    most_bytes: ClassVar[int]
    quick = 0
    has_moved = False
    """What ``with_bounds`` looks at."""
    _length: int | None = None
    """Of the body that is being kept here."""
    _held_bytes = 0
    _asked: Asked | None = None
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
        self.has_moved = True
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
        is_small = length <= self.most_bytes and self.served.takes(self.url, fields, self.client)
        if not is_small or not self.served.bodies.try_reserve(length):
            return None
        self._held_bytes = length
        return length

    def on_body(self, body: bytes) -> None:
        if self._length is None:
            self.base.on_body(self, body)
        else:
            self.has_moved = True
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._length is None:
            self.base.on_message_complete(self)
            return
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        turn = _Turn()
        on_end = functools.partial(self._answer, turn)
        try:
            asked = self.served.ask(self.url, self._fields, self.client, body, on_end)
        except Exception:
            logger.exception("a request ended in a bug")
            self._answer(turn, None)
            return
        if asked is None:
            self._go_on()
            self.base.on_message_complete(self)
            return
        self._stop_reading()
        if isinstance(asked, Reply):
            self._answer(turn, asked)
        else:
            self._asked, self.cycle, self._pieces = asked, turn, []

    def _answer(self, turn: _Turn, reply: Reply | None) -> None:
        """Write an answer, and let the next request begin; without one, end the connection."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.end()
        self._release()
        self.quick += 1
        turn.response_complete = True
        if self.transport.is_closing():
            return
        if reply is not None:
            self.transport.write(_response(reply))
        if reply is None or not turn.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.base.on_response_complete(self)

    def data_received(self, data: bytes) -> None:
        self.base.data_received(self, data)
        if self._length is not None and self._timer is None:  # the rest of the body is still to come
            self._timer = self.loop.call_later(self.body_s, self._go_on)

    def eof_received(self) -> None:
        if self._asked is not None:  # uvicorn closes such a connection, in a later round
            self._asked.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading()
        if self._asked is not None:
            self._asked.cancel()
        self._release()
        self.base.connection_lost(self, exc)

    def _stop_reading(self) -> None:
        self._length = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        self.served.bodies.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def _go_on(self) -> None:
        """Give uvicorn what has come."""
        self._stop_reading()
        self._release()
        self.base.on_headers_complete(self)
        for piece in self._pieces:
            self.base.on_body(self, piece)


def _response(reply: Reply) -> bytes:
    head = [_STATUS.get(reply.status) or b"HTTP/1.1 %d \r\n" % reply.status]
    head += [b"%b: %b\r\n" % header for header in reply.headers]
    head.append(b"content-length: %d\r\n\r\n" % len(reply.body))
    head.append(reply.body)
    return b"".join(head)
