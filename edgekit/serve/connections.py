"""Which open connections are given up: for room when there are too many, and when a client does nothing."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

MOST_AHEAD = 256
"""Requests that a client may send on a connection before it reads the first one's answer."""
MOST_HEAD_BYTES = 64 << 10
"""A request's line and headers, as with h11."""
_TOO_LARGE = b"HTTP/1.1 431 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_IGNORED = b"\r\nx-upgrd"
"""In place of it, as long: httptools skips the body of a request with one, whatever it asks for.
Source: RFC 9110, 7.8: "A server MAY ignore a received Upgrade header field"."""
IDLE, READING, ANSWERED = "idle", "not reading", "being answered"


def state_of(protocol: Any) -> str:
    """Return what a connection of uvicorn waits for: a request, its client to read, or the answer.

    A request's body has a time limit of its own (``Limits.body_s``).
    """
    cycle = protocol.cycle
    if protocol.flow is not None and protocol.flow.write_paused:
        return READING
    return IDLE if cycle is None or cycle.response_complete else ANSWERED


class _Bounded:
    """What is put before uvicorn's protocol.

    ``has_moved``: the last piece of its stream came to a body or to the end of a head.
    """

    bounded: ClassVar[Any]
    has_moved = False
    _is_between = True
    """Whether the parser has read no part of a request whose end is to come."""
    _unread_bytes = 0
    _cycles: deque[Any] | None = None
    """The requests that are not answered, and some that are: uvicorn knows the last one alone."""
    # of uvicorn's protocol
    pipeline: Any
    transport: Any
    cycle: Any

    def data_received(self, data: bytes) -> None:
        self.has_moved = False
        if self._is_between:
            data = without_upgrade(data)
        self.bounded.data_received(self, data)
        if self.has_moved:
            self._unread_bytes = 0
            return
        self._unread_bytes += len(data)
        if self._unread_bytes <= MOST_HEAD_BYTES or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:  # headers after a body, whose request is being answered
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._is_between = False
        self.bounded.on_message_begin(self)

    def on_message_complete(self) -> None:
        self._is_between = True
        self.bounded.on_message_complete(self)

    def on_headers_complete(self) -> None:
        self.has_moved = True
        if len(self.pipeline) >= MOST_AHEAD:
            self.transport.abort()
            return
        self.bounded.on_headers_complete(self)
        if self._cycles is None or not self.pipeline:
            self._cycles = deque(maxlen=MOST_AHEAD + 1)
        self._cycles.append(self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell what answers, which of several requests is the first, and not the last as for uvicorn."""
        for cycle in self._cycles or ():
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.bounded.connection_lost(self, exc)

    def on_body(self, body: bytes) -> None:
        self.has_moved = True
        self.bounded.on_body(self, body)


def without_upgrade(data: bytes) -> bytes:
    r"""Return the beginning of a request so that its parser sees no wish for another protocol.

    Java's client wishes for HTTP/2 in its first request, whose body was lost.

    >>> without_upgrade(b"POST / HTTP/1.1\r\nUpgrade: h2c\r\n\r\nbody")
    b'POST / HTTP/1.1\r\nx-upgrd: h2c\r\n\r\nbody'
    """
    end = data.find(b"\r\n\r\n")
    found = _UPGRADE.search(data, 0, end) if end > 0 else None
    return data if found is None else data[: found.start()] + _IGNORED + data[found.end() :]


def with_bounds(base: Any) -> Any:
    """Return uvicorn's protocol class with bounds that httptools lacks; unchanged for h11.

    It ends a connection of too many requests: one piece of a stream holds thousands of small ones, and each
    takes a kilobyte until its turn comes. It ends one whose headers do not end: they are kept in memory. It
    ignores a wish for another protocol.
    """
    if not hasattr(base, "on_headers_complete"):
        return base
    return type(base.__name__, (_Bounded, base), {"bounded": base, "__module__": base.__module__})


class Connections:
    """Looks after the connections of one server, in its event loop.

    Args:
        opened: Returns those that are open, as uvicorn's protocols.
        most: How many may be open.
        idle_s: How long one may wait for a request, or for the end of its head.
        stalled_s: How long a client may read nothing of its answer.
    """

    def __init__(
        self,
        opened: Callable[[], set[Any]],
        most: int,
        idle_s: float,
        stalled_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opened, self._most = opened, most
        self._longest_s = {IDLE: idle_s, READING: stalled_s, ANSWERED: math.inf}
        self._clock = clock
        self._since: dict[Any, tuple[str, int, float]] = {}
        self.given_up = 0

    def has_room(self, arriving: int = 0) -> bool:
        """Return whether one more may be opened, after giving up an idle one where it is needed."""
        excess = len(self._opened()) + arriving + 1 - self._most
        if excess > 0:
            self.look()
            idle = [each for each, (state, _, _) in self._since.items() if state == IDLE]
            for protocol in idle[:excess]:
                self._give_up(protocol)
            excess -= len(idle)
        return excess <= 0

    def look(self) -> None:
        """Note what each connection does, and give up those that have done nothing for too long."""
        now_s, seen = self._clock(), {}
        for protocol in list(self._opened()):
            state = state_of(protocol)
            mark = _progress(protocol, state)
            known = self._since.get(protocol)
            same = known is not None and known[:2] == (state, mark)
            since_s = known[2] if known is not None and same else now_s
            if now_s - since_s > self._longest_s[state]:
                self._give_up(protocol)
            else:
                seen[protocol] = (state, mark, since_s)
        self._since = dict(sorted(seen.items(), key=lambda item: item[1][2]))

    def _give_up(self, protocol: Any) -> None:
        self.given_up += 1
        protocol.transport.abort()


def _progress(protocol: Any, state: str) -> int:
    """Return a number that changes when a connection goes on in the same state."""
    if state == READING:
        return int(protocol.transport.get_write_buffer_size())
    return id(protocol.cycle) + getattr(protocol, "quick", 0)
