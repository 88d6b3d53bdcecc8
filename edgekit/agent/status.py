"""The agent's local socket: one JSON line is a request, one JSON line its answer.

It is ``run/agent.sock`` below the state folder; only the agent's own user may connect.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.reactor import Reactor
from edgekit.base.failures import Failure, error_of, failure_of
from edgekit.core.errors import EdgekitError, LinkError, ProtocolError, StorageError

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 10
MAX_ANSWER_BYTES = 4 << 20
_TIMEOUT_S = 10.0
Operation = Callable[[dict[str, Any]], Any]


def socket_path(state: Path) -> Path:
    """Return the socket of the agent with this state folder."""
    return state / "run" / "agent.sock"


class StatusServer:
    """Answers on the socket, on the reactor's thread; ``operations`` are called with the request, by ``op``.

    A socket file without a listener is replaced. Over ``max_clients`` connections the oldest is closed, so
    that idle ones lock nobody out.

    Raises:
        StorageError: The socket cannot be made, or another agent listens on it.
    """

    def __init__(
        self, path: Path, reactor: Reactor, operations: Mapping[str, Operation], max_clients: int = 8
    ) -> None:
        self._path, self._reactor, self._operations = path, reactor, operations
        self._max_clients = max_clients
        self._clients: dict[int, _Client] = {}
        self._listener = _listen(path)
        reactor.watch(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        """Stop listening and remove the socket; safe to call twice."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._reactor.unwatch(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError as cause:
            logger.warning("status: a connection could not be taken: %s", cause)
            return
        if len(self._clients) >= self._max_clients:
            self._drop(next(iter(self._clients.values())))
        connection.setblocking(False)
        client = _Client(connection)
        self._clients[connection.fileno()] = client
        self._watch(client)

    def _watch(self, client: _Client) -> None:
        events = selectors.EVENT_WRITE if client.outgoing else selectors.EVENT_READ
        self._reactor.watch(client.connection, events, lambda ready: self._serve(client, ready))

    def _serve(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                del client.outgoing[: client.connection.send(client.outgoing)]
            else:
                self._read(client)
        except BlockingIOError:
            return
        except (OSError, EOFError):
            self._drop(client)
            return
        self._watch(client)

    def _read(self, client: _Client) -> None:
        data = client.connection.recv(MAX_LINE_BYTES)
        client.incoming += data
        if not data or len(client.incoming) > MAX_LINE_BYTES:
            raise EOFError
        line, ended, rest = client.incoming.partition(b"\n")
        if ended:
            client.incoming = bytearray(rest)
            client.outgoing += msgspec.json.encode(self._answer(bytes(line))) + b"\n"

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
            operation = self._operations.get(str(request.get("op", "")))
            if operation is None:
                known = ", ".join(self._operations)
                raise ProtocolError(f"op: want one of {known}, got {request.get('op')!r}")
            return {"result": operation(request)}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            return {"error": failure_of(ProtocolError(f"not a request: {cause}"))}
        except EdgekitError as error:
            return {"error": failure_of(error)}

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        self._reactor.unwatch(client.connection)
        client.connection.close()


class _Client(msgspec.Struct):
    connection: socket.socket
    incoming: bytearray = msgspec.field(default_factory=bytearray)
    outgoing: bytearray = msgspec.field(default_factory=bytearray)


def _listen(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if _somebody_listens(path):
                raise StorageError(f"{path}: another agent listens here", hint="stop it first")
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.setblocking(False)
        listener.listen(8)
    except OSError as cause:
        raise StorageError(f"{path}: cannot be made: {cause.strerror or cause}") from cause
    return listener


def _somebody_listens(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    with probe, _short(path) as address:
        try:
            probe.connect(address)
        except OSError as cause:
            return cause.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


@contextlib.contextmanager
def _short(path: Path) -> Any:
    """Yield a short address of a socket: the kernel takes 107 bytes, and state folders may be longer.

    Source: unix(7), sun_path; proc(5), /proc/self/fd.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


OUTBOX_FILE = "outbox.carried"
"""Below the state folder: what an agent writes to be signed and carried to the fleet."""


def ask(state: Path, request: dict[str, Any], timeout_s: float = _TIMEOUT_S) -> Any:
    """Return a running agent's answer to a request.

    Raises:
        LinkError: No agent runs with this state folder, or it does not answer.
        EdgekitError: It answered with an error.
    """
    path = socket_path(state)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    answer = bytearray()
    try:
        with connection, _short(path) as address:
            connection.connect(address)
            connection.sendall(msgspec.json.encode(request) + b"\n")
            while not answer.endswith(b"\n") and len(answer) <= MAX_ANSWER_BYTES:
                data = connection.recv(MAX_LINE_BYTES)
                if not data:
                    break
                answer += data
    except OSError as cause:
        raise LinkError(
            f"no agent answers on {path}: {cause.strerror or cause}", hint="start it: edgekit agent run"
        ) from cause
    return _result(bytes(answer))


def ask_if_running(state: Path, request: dict[str, Any]) -> Any:
    """Return a running agent's answer to a request; None if no agent runs with this state folder.

    Raises:
        EdgekitError: It answered with an error.
    """
    try:
        return ask(state, request)
    except LinkError as error:
        if error.code != LinkError.code:  # a subclass: the agent's own error
            raise
        return None


def _result(answer: bytes) -> Any:
    try:
        document = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as cause:
        raise ProtocolError(f"the agent's answer is not JSON: {cause}") from cause
    if "error" in document:
        raise error_of(msgspec.convert(document["error"], Failure))
    return document["result"]
