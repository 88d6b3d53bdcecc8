"""Holds the address of the local API, and hands each connection to the process that hosts its model.

It reads no more than the first line of a connection, without taking it off the socket, and passes the
open connection on: so a request costs no extra hop. Small enough to live in an always-on process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import selectors
import socket
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from edgekit.agent.peer import Peer
from edgekit.agent.reactor import Reactor
from edgekit.serve.errors import error_body
from edgekit.serve.hosting import Call, Table
from edgekit.serve.traffic import Traffic

logger = logging.getLogger(__name__)
_BACKLOG = 1024
_AT_ONCE = 128
_LINE_BYTES = 8 << 10
_FIRST_LINE_S = 30.0
_LOOK_AGAIN_S = 0.05
_LINGER_S = 2.0
_WAITING = 256
"""Connections whose first line has not come."""
_SILENT_S = 1.0
"""One that has said nothing for so long is refused, for another; until then no more are accepted."""
_TICK_S = 0.5
_FULL = "429 Too Many Requests"
_LIVE = b"GET /v2/health/live "


def model_of(head: bytes) -> tuple[str, str] | None:
    r"""Return the model and version that the first line of a request names; None for half a line.

    >>> model_of(b"POST /v2/models/door/versions/2/infer HTTP/1.1\r\n"), model_of(b"GET /status HTTP/1.1\r\n")
    (('door', '2'), ('', ''))
    >>> model_of(b"POST /v2/mod")
    """
    words = head.split(b"\n", 1)[0].split(b" ", 2)
    if len(words) < 3 and b"\n" not in head and len(head) < _LINE_BYTES:
        return None
    path = words[1].partition(b"?")[0].decode("latin-1") if len(words) > 1 else ""
    names = path.removeprefix("/v2/repository").removeprefix("/v2").split("/")
    parts = [*map(unquote, names), "", "", ""]
    if parts[1] != "models":
        return "", ""
    return parts[2], parts[4] if parts[3] == "versions" else ""


def _is_over(connection: socket.socket) -> bool:
    """Return whether a client sends no more: a look at what it has sent would never say."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


class Front:
    """Answers at some listening sockets, through peers; all methods belong to the reactor's thread.

    Args:
        reactor: Runs it.
        listeners: Bound sockets, each with whether TLS is spoken there.
        is_open: Whether anybody who reaches the address may know why a model does not answer.
        traffic: Returns that of the models whose versions share requests, at each change.
    """

    def __init__(
        self,
        reactor: Reactor,
        listeners: Sequence[tuple[socket.socket, bool]],
        *,
        is_open: bool,
        traffic: Callable[[], tuple[Traffic, ...]] = tuple,
    ) -> None:
        self.peers: Sequence[Peer] = ()
        """The processes that host the models; whoever changes them calls ``changed``."""
        self._reactor, self._listeners, self._is_open = reactor, listeners, is_open
        self._waiting: dict[socket.socket, float] = {}
        self._leaving: dict[socket.socket, float] = {}
        self._traffic = traffic
        self._table = Table(())
        self._next = 0

    def listen(self) -> None:
        """Accept connections from now on."""
        for listener, is_tls in self._listeners:
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            self._watch(listener, is_tls)
        self._reactor.every(_TICK_S, self._tick)

    def stop(self) -> None:
        """Accept no more."""
        for listener, _ in self._listeners:
            self._reactor.unwatch(listener)
            listener.close()

    def close(self) -> None:
        """Close the connections that no peer has."""
        for connection in [*self._waiting, *self._leaving]:
            self._drop(connection)

    def changed(self) -> None:
        """Send every peer what has changed."""
        self._table = Table(
            tuple(row for peer in self.peers for row in peer.rows),
            tuple(sorted(name for peer in self.peers for name in peer.pipelines)),
            self._traffic(),
        )
        for peer in self.peers:
            peer.tell(self._table)

    # -- connections

    def _watch(self, listener: socket.socket, is_tls: bool) -> None:
        if listener.fileno() >= 0:
            accept = functools.partial(self._accept, listener, is_tls)
            self._reactor.watch(listener, selectors.EVENT_READ, accept)

    def _accept(self, listener: socket.socket, is_tls: bool, _events: int) -> None:
        for _ in range(_AT_ONCE):
            if not self._has_room():
                self._reactor.unwatch(listener)
                self._reactor.after(_LOOK_AGAIN_S, functools.partial(self._watch, listener, is_tls))
                return
            try:
                connection, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as cause:  # no descriptor is left: those that wait make room within seconds
                logger.warning("a connection cannot be accepted: %s", cause)
                self._reactor.unwatch(listener)
                self._reactor.after(_TICK_S, functools.partial(self._watch, listener, is_tls))
                return
            connection.setblocking(False)
            if is_tls:
                if not self._hand_to_any(connection):
                    connection.close()
            else:
                self._wait(connection)
                self._look(connection)

    def _has_room(self) -> bool:
        """Return whether one more may wait, after giving up the one that has been silent for longest."""
        if len(self._waiting) < _WAITING:
            return True
        silent, until_s = next(iter(self._waiting.items()))
        if self._reactor.now_s() < until_s - _FIRST_LINE_S + _SILENT_S:
            return False  # a thousand that come at once have hardly begun to speak
        del self._waiting[silent]
        self._reactor.unwatch(silent)
        self._answer(silent, _FULL, "overloaded: too many connections wait, and this one said nothing")
        return True

    def _wait(self, connection: socket.socket) -> None:
        self._waiting[connection] = self._reactor.now_s() + _FIRST_LINE_S

    def _look(self, connection: socket.socket, _events: int = 0) -> None:
        """Hand a connection over as soon as its first line says to whom."""
        if connection not in self._waiting:
            return
        is_over = _is_over(connection)
        try:
            head = connection.recv(_LINE_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            look = functools.partial(self._look, connection)
            self._reactor.watch(connection, selectors.EVENT_READ, look)
            return
        except OSError:
            head = b""
        named = model_of(head)
        if not head or (named is None and is_over):
            self._drop(connection)
            return
        self._reactor.unwatch(connection)
        if named is None:  # what was peeked stays readable: waiting for more would never wait
            self._reactor.after(_LOOK_AGAIN_S, functools.partial(self._look, connection))
            return
        del self._waiting[connection]
        self.call(connection, Call(*named))

    def call(self, connection: socket.socket, whom: Call) -> None:
        """Have the process of a model or of a pipeline's page answer on a connection; where none is, any."""
        row = self._table.find(whom.model, whom.version)
        holders = (each for each in self.peers if (row and each.has(row)) or whom.pipeline in each.pipelines)
        peer = next(holders, None)
        if not (peer.take(connection) if peer else self._hand_to_any(connection)):
            self.refuse(connection, peer)

    def _hand_to_any(self, connection: socket.socket) -> bool:
        peers = [*self.peers]
        self._next = (self._next + 1) % max(len(peers), 1)
        return any(peer.take(connection) for peer in peers[self._next :] + peers[: self._next])

    def refuse(self, connection: socket.socket, peer: Peer | None) -> None:
        """Answer that no process does, or that it has too much to do, and close the connection."""
        names = ", ".join(dict.fromkeys(repr(row.name) for row in peer.rows)) if peer else ""
        status, message = "503 Service Unavailable", f"model {names} is not ready"
        if peer and peer.is_answering and peer.is_full:
            status, message = _FULL, f"overloaded: too many connections wait for {names}"
        elif not names:
            message = "no model is ready"
        elif peer and self._is_open:
            message += f": {peer.rows[0].reason}"
        self._answer(connection, status, message)

    def _answer(self, connection: socket.socket, status: str, message: str) -> None:
        """Answer with an error, and close the connection once its client has read it."""
        status, body = f"{status}\r\nretry-after: 1", error_body(message)
        with contextlib.suppress(OSError):
            if connection.recv(_LINE_BYTES, socket.MSG_PEEK).startswith(_LIVE):
                status, body = "200 OK", b'{"live":true}'  # this process is
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            connection.setblocking(False)
            connection.send(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        # closed with unread data, the connection would be reset, and the answer lost with it
        self._leaving[connection] = self._reactor.now_s() + _LINGER_S
        drain = functools.partial(self._drain, connection)
        self._reactor.watch(connection, selectors.EVENT_READ, drain)

    def _drain(self, connection: socket.socket, _events: int) -> None:
        try:
            if connection.recv(256 << 10):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._waiting.pop(connection, None)
        self._leaving.pop(connection, None)
        self._reactor.unwatch(connection)
        connection.close()

    # -- time

    def _tick(self) -> None:
        now_s = self._reactor.now_s()
        for connection, until_s in [*self._waiting.items(), *self._leaving.items()]:
            if now_s > until_s:
                self._drop(connection)
        self.changed()
