"""The messages between supervisor and worker: length-prefixed MessagePack over a socket pair.

Bounded both ways: a frame has at most ``MAX_FRAME_BYTES``, a channel queues at most ``MAX_PENDING_BYTES``.
A worker hosts several models and pipelines: a message names the model's key or the pipeline it is about.
Malformed data raises ``ProtocolError``; the supervisor then restarts the worker and counts it.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, Literal, Union

import msgspec

from edgekit.core.errors import LinkError, ProtocolError
from edgekit.core.sketch import Sketch
from edgekit.core.wire import Alert, EventRecord, StageState
from edgekit.model.exclusions import Exclusion
from edgekit.pipeline.fallback import FallbackTable

MAX_FRAME_BYTES = 2 << 20
MAX_PENDING_BYTES = 8 << 20
MAX_LABELS = 64
_LENGTH = struct.Struct(">I")
_READ_BYTES = 64 << 10

Purpose = Literal["trial", "rollback", "switch"]
NOT_SHARED = "agent.not_shared"
"""The code of ``Ended`` where another pipeline uses the model, whose file keeps state from frame to frame."""


# -- From a worker


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Which bundle a worker runs, on what, and why this variant."""

    model: str
    version: str
    variant: str
    backend: str
    accelerator: str
    precision: str = ""
    why: str = ""
    digest: str = ""
    """SHA-256 of the manifest's bytes."""
    left: int = 0
    """How many other variants could take over from this one."""
    at: int = 0
    of: int = 1
    """Its position in the fallback's order, from 0, and the number of pairs there."""


class Opening(msgspec.Struct, frozen=True, tag="opening", kw_only=True):
    """A variant may take the process with it from now on; ``left`` more could follow.

    It is about to be loaded, or it is the running one again, after another was loaded beside it.
    """

    model: str
    digest: str
    variant: str
    left: int


class Opened(msgspec.Struct, frozen=True, tag="opened", kw_only=True):
    """A model is loaded, and its pipelines start."""

    model: str
    running: Running
    load_ms: float


class ModelFailed(msgspec.Struct, frozen=True, tag="model_failed", kw_only=True):
    """A model cannot be opened, or no variant of it is left; its pipelines have ended with it.

    ``is_final``: the same bundle would fail again.
    """

    model: str
    code: str
    reason: str
    is_final: bool = False


class Returned(msgspec.Struct, frozen=True, tag="returned", kw_only=True):
    """A variant that was excluded works again, and runs in place of the one that took over."""

    model: str
    running: Running


class Varied(msgspec.Struct, frozen=True, tag="varied", kw_only=True):
    """Another variant runs, to keep a pipeline's budget."""

    model: str
    running: Running


class StillLost(msgspec.Struct, frozen=True, tag="still_lost", kw_only=True):
    """A lost variant of a bundle was tried again, and does not work yet."""

    model: str
    digest: str
    variant: str
    reason: str


class ModelProgress(msgspec.Struct, frozen=True, tag="model_progress", kw_only=True):
    """A model's own figures; its frames are counted in each pipeline's ``Progress``."""

    model: str
    rechecks: dict[str, int] = {}
    """Checks of the golden samples since the model was opened: ``done``, and those that were ``forced``."""
    queue: int = 0
    """Frames and requests that wait for the model."""
    busy_s: float = 0.0
    """For how long the model has been at work on the same frame or request; 0 if it is at rest."""
    worked_s: float = 0.0
    """For how long it has been at work since the last message."""
    p95_ms: float = 0.0
    """Of the last 256 frames and requests, in the model."""


class Started(msgspec.Struct, frozen=True, tag="started", kw_only=True):
    """A pipeline has its model, and frames flow from now on."""

    pipeline: str


class Prepared(msgspec.Struct, frozen=True, tag="prepared", kw_only=True):
    """A pipeline that was to wait has its models open, and waits for ``Begin``."""

    pipeline: str


class Progress(msgspec.Struct, frozen=True, tag="progress", kw_only=True):
    """A pipeline's counts since its last ``Progress``, all of one version of a model.

    With ``stage``, those of the model of that later stage, and nothing else: ``frames`` on which it ran,
    ``errors``, what it found, and its time for each crop. ``advanced``: a frame was finished, or none was due
    (a paced camera, a silent sensor). False for long means that the pipeline hangs.
    """

    pipeline: str
    stage: str = ""
    period_s: float
    captured: int = 0
    frames: int = 0
    dropped: int = 0
    errors: int = 0
    events: int = 0
    items: int = 0
    """Items predicted; ``Guards.event_ratio`` bounds their rate."""
    failovers: int = 0
    changes: int = 0
    """Of what is given up to keep the budget, since the pipeline's start."""
    setting: str = ""
    """What is given up now; empty for nothing."""
    infer_ms: Sketch | None = None
    latency_ms: Sketch | None = None
    labels: dict[str, int] = {}
    brokers: tuple[dict[str, Any], ...] = ()
    """Message counters of each broker that a sink names, since the pipeline's start."""
    stages: tuple[StageState, ...] = ()
    """Of a pipeline of several models, since its source was opened, as is the next."""
    places: dict[str, Any] = {}
    """How many objects were followed, and what zones and lines counted."""
    source: dict[str, Any] = {}
    """The source's state (a camera's or line's faults) and its own counters."""
    switch: dict[str, Any] = {}
    """Whether it takes frames, which profile it has, since when and why; empty where nobody turned it."""
    running: Running
    advanced: bool = True


def add_label(labels: dict[str, int], label: str, number: int = 1) -> None:
    """Count items of a label; the first ``MAX_LABELS`` of a period by name, the others under ``"*"``."""
    key = label if label in labels or len(labels) < MAX_LABELS else "*"
    labels[key] = labels.get(key, 0) + number


class EventOut(msgspec.Struct, frozen=True, tag="event", kw_only=True):
    """An event, before the egress gate.

    ``key`` is the same when the source gives its frame again, which ``is_again`` says it did. ``Kept``
    answers where there is a ``number``.
    """

    record: EventRecord
    key: str = ""
    is_again: bool = False
    number: int = 0


class TrialProgress(msgspec.Struct, frozen=True, tag="trial", kw_only=True):
    """The progress of a swap's preparation."""

    model: str
    swap: int
    stage: Literal["loading", "golden", "ready"]
    detail: str = ""


class Swapped(msgspec.Struct, frozen=True, tag="swapped", kw_only=True):
    """The new bundle takes frames from now on; during a trial the old one stays loaded."""

    model: str
    swap: int
    purpose: Purpose
    running: Running
    load_ms: float
    gap_ms: float
    """From the last frame of the old model until the new one takes frames."""


class SwapFailed(msgspec.Struct, frozen=True, tag="swap_failed", kw_only=True):
    """The new bundle was rejected, and the old one still runs."""

    model: str
    swap: int
    purpose: Purpose
    code: str
    reason: str


class FailedOver(msgspec.Struct, frozen=True, tag="failed_over", kw_only=True):
    """A variant was lost, or gave wrong answers, and another took over."""

    model: str
    lost: str
    reason: str
    running: Running
    took_ms: float


class AlertOut(msgspec.Struct, frozen=True, tag="alert", kw_only=True):
    """Something an operator should know."""

    alert: Alert


class LedgerEntry(msgspec.Struct, frozen=True, array_like=True):
    """Decisions of a worker's gate about data of one class for one destination."""

    data_class: str
    destination: str
    decision: Literal["passed", "refused"]
    count: int
    bytes: int


class LedgerOut(msgspec.Struct, frozen=True, tag="ledger", kw_only=True):
    """The ledger entries of the brokers that a pipeline's sinks name, since the last one."""

    pipeline: str
    entries: tuple[LedgerEntry, ...]


class Asked(msgspec.Struct, frozen=True, tag="asked", kw_only=True):
    """A sink of a pipeline asks for the first model's ``versions``, at each change too, or for an action."""

    pipeline: str
    action: Literal["versions", "install", "rollback"]


class Ended(msgspec.Struct, frozen=True, tag="ended", kw_only=True):
    """A pipeline has ended: its source did, it was stopped, or it failed; the others go on.

    ``code`` is the error's, empty for none. ``blames``: the key of the model that raised it, or its runtime.
    ``is_final``: the same pipeline on the same bundle would fail again. ``is_asked``: by the supervisor.
    """

    pipeline: str
    reason: str
    is_asked: bool = False
    code: str = ""
    blames: str = ""
    is_final: bool = False


FromWorker = Union[  # noqa: UP007 - decoded at run time
    Opening,
    Opened,
    ModelFailed,
    Returned,
    Varied,
    StillLost,
    ModelProgress,
    Started,
    Prepared,
    Progress,
    EventOut,
    TrialProgress,
    Swapped,
    SwapFailed,
    FailedOver,
    AlertOut,
    LedgerOut,
    Asked,
    Ended,
]


# -- To a worker


class Host(msgspec.Struct, frozen=True, tag="host", kw_only=True):
    """Open a bundle as the model ``model``, for every pipeline that names this key.

    ``exclude`` has the variants that were lost, by bundle digest. ``threads`` 0 is the machine's default,
    ``batch`` 0 the file's.
    """

    model: str
    path: str
    variant: str = ""
    threads: int = 0
    batch: int = 0
    fallback: FallbackTable = FallbackTable()
    exclude: dict[str, dict[str, Exclusion]] = {}


class Drop(msgspec.Struct, frozen=True, tag="drop", kw_only=True):
    """Free a model, whose pipelines have ended."""

    model: str


class Run(msgspec.Struct, frozen=True, tag="run", kw_only=True):
    """Run a pipeline on hosted models, as soon as they are open: the first one's key, and ``later`` by stage.

    ``text`` is the pipeline's TOML, ``what`` its name in messages, ``folder`` what its paths are relative to.
    ``is_managed``: the agent keeps the first model up to date. ``waits``: open no source or sink before
    ``Begin``.
    """

    pipeline: str
    model: str
    later: dict[str, str] = {}
    text: str
    what: str
    folder: str
    is_managed: bool = False
    waits: bool = False


class Begin(msgspec.Struct, frozen=True, tag="begin", kw_only=True):
    """Open the source of a pipeline that waits: it has ended in the process that had it."""

    pipeline: str


class End(msgspec.Struct, frozen=True, tag="end", kw_only=True):
    """End a pipeline after its current frame; ``Ended`` answers. The others go on."""

    pipeline: str


class Turn(msgspec.Struct, frozen=True, tag="turn", kw_only=True):
    """Turn a pipeline's switch: ``on``, ``off``, a profile's name, or ``auto``."""

    pipeline: str
    to: str
    why: str


class Kept(msgspec.Struct, frozen=True, tag="kept", kw_only=True):
    """The events of a pipeline up to a number are on disk, or given up."""

    pipeline: str
    number: int


class Swap(msgspec.Struct, frozen=True, tag="swap", kw_only=True):
    """Load this bundle beside a running one, check it, and switch all its pipelines at a frame boundary.

    ``rollback`` switches at once to the bundle kept loaded during a trial, and needs no path then.
    """

    model: str
    swap: int
    purpose: Purpose
    path: str = ""


class Keep(msgspec.Struct, frozen=True, tag="keep"):
    """The trial is over and the new bundle stays: free the old one."""

    model: str


class Offered(msgspec.Struct, frozen=True, tag="offered", kw_only=True):
    """The versions of a pipeline's first model: the installed one, and the one the fleet wants, if any."""

    pipeline: str
    model: str
    installed: str
    latest: str
    is_busy: bool


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish the frames, close everything, exit 0."""


ToWorker = Union[  # noqa: UP007 - decoded at run time
    Host, Drop, Run, Begin, End, Turn, Kept, Swap, Keep, Offered, Stop
]


# -- Framing


def frame(message: Any) -> bytes:
    """Return a message as sent over the socket.

    Raises:
        ProtocolError: It is larger than a frame may be.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(
            f"a {type(message).__name__} of {len(body)} bytes is over the {MAX_FRAME_BYTES} of a frame"
        )
    return _LENGTH.pack(len(body)) + body


class Deframer:
    """Turns a stream of bytes into messages of the union ``kind``.

    >>> incoming = Deframer(ToWorker)
    >>> data = frame(Stop())
    >>> list(incoming.feed(data[:3])), list(incoming.feed(data[3:]))
    ([], [Stop()])
    """

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield each message that is complete now.

        Raises:
            ProtocolError: A length is out of bounds, or a body is not a message.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are read")
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            try:
                yield self._decoder.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
                raise ProtocolError(f"frame: {cause}") from cause


class Channel:
    """The supervisor's end: reads and writes never wait.

    Messages that the peer does not read are queued; at ``MAX_PENDING_BYTES`` the peer counts as dead.
    """

    def __init__(self, peer: socket.socket, kind: Any) -> None:
        peer.setblocking(False)
        self._socket = peer
        self._incoming = Deframer(kind)
        self._pending = bytearray()

    def fileno(self) -> int:
        """Return the descriptor to wait on; -1 once closed."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Queue a message, and send as much as possible now.

        Raises:
            LinkError: The peer is gone, or does not read.
        """
        self._pending += frame(message)
        if len(self._pending) > MAX_PENDING_BYTES:
            raise LinkError(f"the peer does not read: {len(self._pending)} bytes wait for it")
        self.flush()

    def flush(self) -> None:
        """Send as much as possible now.

        Raises:
            LinkError: The peer is gone.
        """
        try:
            while self._pending:
                del self._pending[: self._socket.send(self._pending)]
        except BlockingIOError:
            return
        except OSError as cause:
            raise LinkError(f"the peer is gone: {cause.strerror}") from cause

    def receive(self) -> tuple[list[Any], bool]:
        """Return the messages received, and whether the peer has closed.

        Raises:
            ProtocolError: The bytes are not messages.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        return list(self._incoming.feed(data)), not data

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        self._socket.close()


class BlockingChannel:
    """The worker's end: one thread reads, any thread sends."""

    def __init__(self, peer: socket.socket, kind: Any) -> None:
        peer.setblocking(True)
        self._socket = peer
        self._incoming = Deframer(kind)
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Send a whole message; waits while the supervisor does not read.

        Raises:
            LinkError: The supervisor is gone.
        """
        data = frame(message)
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError as cause:
            raise LinkError(f"the supervisor is gone: {cause.strerror}") from cause

    def __iter__(self) -> Iterator[Any]:
        """Yield messages until the supervisor closes its end.

        Raises:
            ProtocolError: The supervisor does not speak this protocol.
        """
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                return
            if not data:
                return
            yield from self._incoming.feed(data)

    def close(self) -> None:
        """Close the socket, also under a thread that reads; safe to call twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
