"""Takes small inference requests from uvicorn's parser to the model's lane, and writes their answers.

A request that ends in a millisecond costs more to schedule than to answer. So where uvicorn's parser is
httptools, the body of a small inference request is kept in the connection's protocol and goes from there to
the lane: no task, no event, one write. Whatever else comes (another path, a model of another process, a body
without a length or of more than 1 MiB) goes uvicorn's way, from its first byte.

A client sends the same head with each request. Where a whole request begins with exactly the bytes of the
head that the parser has read before on this connection, it need not read them again.
"""

from __future__ import annotations

import functools
import logging
from asyncio import TimerHandle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

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


class _Head(NamedTuple):
    """A request's head as it came on a connection, and what the parser found in it."""

    text: bytes
    url: bytes
    fields: dict[bytes, bytes]
    length: int


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
    _chunk = b""
    """What is being parsed, if it began between two requests; for the end of a request that is all of it."""
    _is_between = True
    """Whether the parser has read no part of a request whose end is to come."""
    _head: _Head | None = None
    """That of the last request that came in one piece."""
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
    _unset_keepalive_if_required: Callable[[], None]

    def on_message_begin(self) -> None:
        self._is_between = False
        self.base.on_message_begin(self)

    def on_headers_complete(self) -> None:
        self._length = self._quick_length()
        self.has_moved = True
        if self._length is None:
            self.base.on_headers_complete(self)
        else:
            self._pieces = []

    def _quick_length(self) -> int | None:
        """Return the length of a body that is to be kept here."""
        if not self._is_free() or self.expect_100_continue:
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
        return length if length <= self.most_bytes and self._may_keep(self.url, fields, length) else None

    def _is_free(self) -> bool:
        """Return whether the request before is answered, and the client reads its answers."""
        is_answered = (self.cycle is None or self.cycle.response_complete) and not self.pipeline
        return is_answered and not self.flow.write_paused

    def _may_keep(self, url: bytes, fields: dict[bytes, bytes], length: int) -> bool:
        """Reserve memory for a body that goes this way, and return whether it does."""
        if not self.served.takes(url, fields, self.client) or not self.served.bodies.try_reserve(length):
            return False
        self._held_bytes = length
        return True

    def on_body(self, body: bytes) -> None:
        if self._length is None:
            self.base.on_body(self, body)
        else:
            self.has_moved = True
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_between = True
        if self._length is None:
            self.base.on_message_complete(self)
            return
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._learn(body)
        if not self._ask(self.url, self._fields, body):
            self._go_on()
            self.base.on_message_complete(self)

    def _learn(self, body: bytes) -> None:
        """Remember the head of a request that is the whole of what is being parsed."""
        text, end, rest = self._chunk.partition(b"\r\n\r\n")
        if end and len(rest) == len(body):  # else the parser has found another end
            self._head = _Head(text + end, self.url, dict(self._fields), len(body))

    def _ask(self, url: bytes, fields: dict[bytes, bytes], body: bytes) -> bool:
        """Have a request answered; False where that is uvicorn's task after all."""
        turn = _Turn()
        try:
            asked = self.served.ask(url, fields, self.client, body, functools.partial(self._answer, turn))
        except Exception:
            logger.exception("a request ended in a bug")
            self._answer(turn, None)
            return True
        if asked is None:
            return False
        self._stop_reading()
        if isinstance(asked, Reply):
            self._answer(turn, asked)
        else:
            self._asked, self.cycle, self._pieces = asked, turn, []
        return True

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
        if self._is_between and self._again(data):
            return
        self._chunk = data if self._is_between else b""
        self.base.data_received(self, data)
        self._chunk = b""
        if self._length is not None and self._timer is None:  # the rest of the body is still to come
            self._timer = self.loop.call_later(self.body_s, self._go_on)

    def _again(self, data: bytes) -> bool:
        """Have a request answered that is whole and has the last one's head; False if it is not."""
        head = self._head
        if head is None or len(data) != len(head.text) + head.length or not data.startswith(head.text):
            return False
        if not self._is_free() or not self._may_keep(head.url, head.fields, head.length):
            return False
        self._unset_keepalive_if_required()
        if self._ask(head.url, dict(head.fields), data[len(head.text) :]):
            return True
        self._release()
        return False

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
