"""The messages between the front, which holds the address, and the hosts of the models.

A pair of SEQPACKET sockets keeps each message whole, and an open connection can travel with one.
"""

from __future__ import annotations

import socket
from typing import Any, Literal, Union

import msgspec

from edgekit.base.failures import Failure
from edgekit.core.errors import ProtocolError
from edgekit.core.spec import version_key
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access
from edgekit.serve.traffic import Traffic

_MAX_BYTES = 160 << 10
"""Of one message: less than a socket's default buffer of 208 KiB."""


class Settings(msgspec.Struct, frozen=True, tag="settings", kw_only=True):
    """How every host answers; ``began_s`` is the monotonic time of the front's start.

    A worker of the agent gets it as the first message: the models that it serves are its pipelines'.
    """

    access: Access
    limits: Limits
    certificate: str
    key: str
    version: str
    began_s: float
    page: Literal["", "local", "open"] = ""
    """Whether there is a page of what the pipelines see, and whether other machines can reach it."""
    jobs: str = ""
    """A folder for requests that are answered later; empty: all are answered at once."""


class Start(msgspec.Struct, frozen=True, tag="start", kw_only=True):
    """The first message to a host of one model: open it, unless it was unloaded.

    ``exclusions`` has a row for each variant that was lost before.
    """

    settings: Settings
    path: str
    exclusions: dict[str, Any]
    should_load: bool
    threads: int | None
    log_level: int
    replicas: tuple[str, ...] = ()
    """What it runs on, all at once; empty: on the best."""
    needs_all: bool = False
    """Whether all of them must open at the start."""


class ReplicaRow(msgspec.Struct, frozen=True):
    """One replica of a model: what it runs, and whether it does."""

    name: str
    variant: str
    state: str
    reason: str
    losses: int


class Connection(msgspec.Struct, frozen=True, tag="connection"):
    """Answer on the connection that comes with this message."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model as every host knows it; ``pid`` is 0 while no process hosts it."""

    name: str
    version: str
    state: str
    reason: str
    should_load: bool
    pid: int
    restarts: int
    is_answering: bool
    recycled: int = 0
    """How often its process was replaced as its memory grew."""
    replicas: tuple[ReplicaRow, ...] = ()


class Table(msgspec.Struct, frozen=True, tag="table"):
    """Every model of this address, in the order of the command line."""

    rows: tuple[Row, ...]
    pipelines: tuple[str, ...] = ()
    """Those whose page a process behind this address has."""
    traffic: tuple[Traffic, ...] = ()
    """Of the models whose versions share requests, or have a shadow."""

    def traffic_of(self, model: str) -> Traffic | None:
        """Return how a model's versions share its requests; None where the newest has all."""
        return next((each for each in self.traffic if each.model == model), None)

    def find(self, model: str, version: str = "") -> Row | None:
        """Return a version; else the newest that was not unloaded; else the newest; None for no model.

        Where versions share the requests, the one with the largest share stands for the newest.
        """
        rows = [row for row in self.rows if row.name == model]
        if not version and (shared := self.traffic_of(model)) is not None:
            version = shared.main
        exact = (row for row in rows if row.version == version)
        newest = max(rows, key=lambda row: (row.should_load, version_key(row.version)), default=None)
        return next(exact, newest)


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Answer the requests that run, close the model, exit 0."""


ToHost = Union[Settings, Start, Connection, Table, Stop]  # noqa: UP007 - decoded at run time


class Answered(msgspec.Struct, frozen=True):
    """How many requests a version answered; what came of comparing its answers with a shadow's, if it was."""

    model: str
    version: str
    requests: int
    shadow: dict[str, Any] | None = None


class Trying(msgspec.Struct, frozen=True, tag="trying"):
    """A variant is opened, which may end the process; ``left`` more could follow."""

    variant: str
    left: int


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True):
    """How the model is, twice a second and after each change: the event loop is alive."""

    state: str
    reason: str
    variant: str
    exclusions: dict[str, Any]
    should_load: bool
    is_stuck: bool
    answered: Answered | None = None
    replicas: tuple[ReplicaRow, ...] = ()


class Offers(msgspec.Struct, frozen=True, tag="offers"):
    """The models of a worker, twice a second and after each change; the supervisor adds its process."""

    rows: tuple[Row, ...]
    pipelines: tuple[str, ...] = ()
    answered: tuple[Answered, ...] = ()


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The oldest connection not yet taken is."""


class Call(msgspec.Struct, frozen=True, tag="call"):
    """Hand the connection that comes with this message to the host of another model or pipeline."""

    model: str = ""
    version: str = ""
    pipeline: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The model cannot be opened."""

    failure: Failure


FromHost = Union[Trying, Report, Offers, Taken, Call, Failed]  # noqa: UP007 - decoded at run time


class Pipe:
    """One end of the pair, which never waits."""

    def __init__(self, end: socket.socket, kind: Any) -> None:
        self._socket = end
        self._decoder = msgspec.msgpack.Decoder(kind)
        end.setblocking(False)
        self.fileno = end.fileno
        self.close = end.close

    def send(self, message: Any, connection: socket.socket | None = None) -> bool:
        """Send a message, and a duplicate of a connection; return False where the peer does not read."""
        data = msgspec.msgpack.encode(message)
        try:
            socket.send_fds(self._socket, [data], [connection.fileno()] if connection else [])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Any, socket.socket | None] | None:
        """Return a message and its connection; None where the peer has ended.

        Raises:
            BlockingIOError: There is none now.
            ProtocolError: It is not a message of this protocol.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        try:
            return (self._decoder.decode(data), connection) if data else None
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise ProtocolError(f"a message between front and host: {cause}") from cause
