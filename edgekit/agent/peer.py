"""A process behind the address, as the process that holds the address sees it."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable

from edgekit.agent.reactor import Reactor
from edgekit.core.errors import ProtocolError
from edgekit.serve.hosting import Answered, Call, Connection, Pipe, Row, Table, Taken

_WINDOW = 64
"""Connections that were sent and not yet taken: as many as fit into the pipe."""
_QUEUED = 192


class Peer:
    """Takes connections over a pipe while it was heard of a moment ago; for the reactor's thread.

    Args:
        reactor: Runs it.
        quiet_s: After how many seconds without a message it takes none.
        call: Hands a connection to another process.
        refuse: Answers on a connection that this process did not take.
    """

    def __init__(
        self,
        reactor: Reactor,
        quiet_s: float,
        call: Callable[[socket.socket, Call], None],
        refuse: Callable[[socket.socket, Peer], None],
    ) -> None:
        self._reactor, self._quiet_s, self._call, self._refuse = reactor, quiet_s, call, refuse
        self._untaken: deque[socket.socket] = deque()
        self._queued: deque[socket.socket] = deque()
        self._pipe: Pipe | None = None
        self._table: Table | None = None
        self._heard_s = 0.0

    @property
    def rows(self) -> tuple[Row, ...]:
        """What all processes are to know of this one's models."""
        raise NotImplementedError

    @property
    def pipelines(self) -> tuple[str, ...]:
        """The pipelines whose page it has."""
        return ()

    @property
    def answered(self) -> tuple[Answered, ...]:
        """What its models answered since its process began."""
        raise NotImplementedError

    @property
    def is_answering(self) -> bool:
        """Whether it takes connections: it was heard of a moment ago."""
        silent_s = self._reactor.now_s() - self._heard_s
        return self._pipe is not None and self._heard_s > 0 and silent_s < self._quiet_s

    def has(self, row: Row) -> bool:
        """Return whether a model is its."""
        return any((mine.name, mine.version) == (row.name, row.version) for mine in self.rows)

    def take(self, connection: socket.socket) -> bool:
        """Have it answer on a connection, as soon as it takes more; False where it cannot be asked to."""
        if not self.is_answering or self.is_full:
            return False
        self._queued.append(connection)
        self._pass_on()
        if not self._untaken:  # it could not be sent, and nothing will be taken that makes room
            self._queued.pop()
        return bool(self._untaken)

    @property
    def is_full(self) -> bool:
        """Whether it has so many connections that more are refused: overload."""
        return len(self._queued) >= _QUEUED

    def _pass_on(self) -> None:
        while self._queued and len(self._untaken) < _WINDOW:
            if not self._send(Connection(), self._queued[0]):
                return
            self._untaken.append(self._queued.popleft())

    def tell(self, table: Table) -> None:
        """Send it the table, unless it has it."""
        if self._heard_s and table != self._table and self._send(table):
            self._table = table

    def _connect(self, pipe: Pipe) -> None:
        self._pipe, self._table, self._heard_s = pipe, None, 0.0
        self._reactor.watch(pipe, selectors.EVENT_READ, self._read)

    def _send(self, message: object, connection: socket.socket | None = None) -> bool:
        return self._pipe is not None and self._pipe.send(message, connection)

    def _read(self, _events: int) -> None:
        while self._pipe is not None:
            try:
                received = self._pipe.receive()
            except BlockingIOError:
                return
            except ProtocolError as error:
                self._broke(error.message)
                received = None
            if received is None:
                self._disconnect()
                return
            self._heard_s = self._reactor.now_s()
            message, connection = received
            if isinstance(message, Taken):
                self._untaken.popleft().close()
                self._pass_on()
            elif isinstance(message, Call) and connection is not None:
                self._call(connection, message)
            else:
                self._handle(message)

    def _disconnect(self) -> None:
        """Close the pipe, and answer on the connections that nobody took."""
        pipe, self._pipe, self._heard_s = self._pipe, None, 0.0
        if pipe is not None:
            self._reactor.unwatch(pipe)
            pipe.close()
            self._ended()
        while waiting := self._untaken or self._queued:
            self._refuse(waiting.popleft(), self)

    def _broke(self, reason: str) -> None:
        """It does not speak the protocol."""

    def _handle(self, message: object) -> None:
        """It said something about its models."""

    def _ended(self) -> None:
        """Its end of the pipe is closed."""
