"""Every message between a device and its fleet: topics, bodies, codecs.

MQTT 3.1.1 semantics: expiry, sequence and correlation are in the payload. State and requests are JSON,
durable messages MessagePack.
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, Union

import msgspec

from edgekit.core.cameras import CameraState
from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import Sketch
from edgekit.core.spec import DEVICE_ID, BackendFact, Box, Facts, Guards, Mask, OrientedBox, Parent, Points

ROOT = "ek/v1"
UP = ("state", "reported", "m", "ev", "req")
DOWN = ("desired", "ack", "res", "cmd")
MAX_DESIRED_BYTES = 8 << 10
MAX_MESSAGE_BYTES = 1 << 20
CHUNK_BYTES = 128 << 10
MAX_MEASURED_VARIANTS = 64
MEASURING = "measure"
"""The ``purpose`` in the signed target of a bundle that is measured and never installed."""
_CHUNK_HEADER = struct.Struct(">4sIQ")
_CHUNK_MAGIC = b"EKC1"


# -- Topics


def up(device: str, leaf: str) -> str:
    """Return the topic that a device publishes ``leaf`` on.

    >>> up("cam-1", "state")
    'ek/v1/cam-1/up/state'
    """
    return f"{ROOT}/{device}/up/{leaf}"


def down(device: str, leaf: str) -> str:
    """Return the topic that a device receives ``leaf`` on; ``"#"`` for its one subscription."""
    return f"{ROOT}/{device}/down/{leaf}"


def parse_topic(topic: str) -> tuple[str, str, str]:
    """Return (device, "up" or "down", leaf) of a topic.

    Raises:
        ProtocolError: It is not a topic of this protocol.
    """
    parts = topic.split("/")
    if len(parts) == 5 and "/".join(parts[:2]) == ROOT and DEVICE_ID.fullmatch(parts[2]):
        _, _, device, way, leaf = parts
        if leaf in {"up": UP, "down": DOWN}.get(way, ()):
            return device, way, leaf
    raise ProtocolError(f"{topic[:200]!r} is not a topic of {ROOT}")


# -- Retained state


class Birth(msgspec.Struct, frozen=True):
    """``up/state``: an online device. The last will is the same with ``online`` false.

    ``boot`` identifies the outbox file, ``conn`` counts its connections, so that an old will does not replace
    a newer birth. ``desired`` is the desired version applied.
    """

    online: bool
    boot: str
    conn: int
    agent: str = ""
    profile: str = ""
    hardware: Facts | None = None
    backends: tuple[BackendFact, ...] = ()
    desired: int = 0
    clock: Literal["synced", "floored", "unknown"] = "unknown"
    unix_ms: int = 0


class ModelState(msgspec.Struct, frozen=True):
    """The versions of a model on a device, and the variant that runs."""

    active: str = ""
    previous: str = ""
    staged: str = ""
    variant: str = ""
    backend: str = ""
    accelerator: str = ""
    why: str = ""


class UpdateState(msgspec.Struct, frozen=True):
    """The update of one model; ``state`` is one of the update machine's."""

    state: str
    model: str = ""
    version: str = ""
    reason: str = ""
    rollout: str = ""
    attempt: int = 0


class StageState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of several; it runs ``on`` frames or another stage's items, ``skipped`` some by its rule."""

    name: str
    model: str = ""
    version: str = ""
    variant: str = ""
    on: str = ""
    inferences: int = 0
    skipped: int = 0
    errors: int = 0
    infer_ms: Sketch | None = None


class PipelineState(msgspec.Struct, frozen=True):
    """The state of one pipeline; times in milliseconds."""

    state: Literal["starting", "running", "failed", "stopped"]
    model: str = ""
    version: str = ""
    variant: str = ""
    fps: float = 0.0
    p95_ms: float = 0.0
    frames: int = 0
    dropped: int = 0
    errors: int = 0
    restarts: int = 0
    failovers: int = 0
    message: str = ""
    skipped: int = 0
    stages: tuple[StageState, ...] = ()
    """Of a pipeline of several models; the fields above are its first stage's."""
    returns: int = 0
    """How often a lost variant worked again and took over."""
    setting: str = ""
    """What is given up now to keep the budget, such as a part of the rate; empty for nothing."""
    changes: int = 0
    """How often that was changed."""


class OutboxState(msgspec.Struct, frozen=True):
    """What is queued for the link, what was dropped over quota, and the last number on disk."""

    rows: int = 0
    bytes: int = 0
    dropped: int = 0
    last_seq: int = 0


class Reported(msgspec.Struct, frozen=True):
    """``up/reported``: the whole state of a device, on change and on connect."""

    boot: str
    version: int
    desired: int
    models: dict[str, ModelState] = {}
    updates: dict[str, UpdateState] = {}
    pipelines: dict[str, PipelineState] = {}
    outbox: OutboxState = OutboxState()
    sensors: dict[str, float] = {}
    rejected: dict[str, str] = {}
    """The reasons, by ``model@version``, of versions that this device will not try again."""
    unix_ms: int = 0
    cameras: CameraState = CameraState()


class RolloutGuards(Guards, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A rollout's guards in a message: rules that a device does not know yet are ignored."""


class DesiredModel(msgspec.Struct, frozen=True):
    """One model that a device should run.

    ``target`` is the TUF target path of its ``bundle.json``, ``sha256`` and ``bytes`` that file's. Of
    ``guards`` and the bundle's, the tighter apply.
    """

    version: str
    target: str
    sha256: str
    bytes: int
    rollout: str = ""
    soak_s: int = 30
    guards: RolloutGuards | None = None


class Desired(msgspec.Struct, frozen=True):
    """``down/desired``: the whole desired state of one device, versioned and signed."""

    device: str
    version: int
    models: dict[str, DesiredModel] = {}
    config: dict[str, Any] = {}
    issued_unix_ms: int = 0
    signature: dict[str, str] | None = None
    """``{"keyid", "sig"}``: Ed25519, hexadecimal, over ``signed_bytes``."""


class Addresses(msgspec.Struct, frozen=True):
    """``config["addresses"]`` of a desired state: where the fleet is going to be, told before it moves."""

    fleet_url: str
    broker_url: str
    metadata_url: str
    targets_url: str


def signed_bytes(encoded: bytes) -> bytes:
    """Return the bytes that a desired state's signature covers: sorted JSON, unknown fields included.

    Raises:
        ProtocolError: It is not a JSON object.
    """
    document = _decoded(partial(msgspec.json.decode, type=dict[str, Any]), encoded, "Desired")
    document.pop("signature", None)
    return msgspec.json.encode(document, order="sorted")


# -- Durable messages: what waits in the outbox


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """When something happened: monotonic time and wall time."""

    mono_ns: int
    unix_ms: int


class MetricReport(Timed, frozen=True, tag="metric", kw_only=True):
    """The metrics of one pipeline over one period, and of one model that it ran.

    ``pipeline`` is its name; of the model of a later stage ``pipeline/stage``, and ``frames`` are those on
    which the stage ran.
    """

    pipeline: str
    model: str
    version: str
    variant: str
    backend: str = ""
    accelerator: str = ""
    period_s: float
    frames: int
    dropped: int = 0
    errors: int = 0
    events: int = 0
    failovers: int = 0
    infer_ms: Sketch | None = None
    latency_ms: Sketch | None = None
    labels: dict[str, int] = {}
    total: int = 0
    """Number of all items; ``labels`` has the number of each label."""
    sensors: dict[str, float] = {}
    skipped: int = 0
    stages: tuple[StageState, ...] = ()


class EventRecord(Timed, frozen=True, tag="event", kw_only=True, omit_defaults=True):
    """A prediction that passed the debounce and the egress gate.

    The beginning and the end of an occurrence have the same ``id``; ``end_mono_ns`` and ``end_unix_ms`` are
    when it was last seen, once it is gone. ``versions``: of each model, where several took part. ``box`` to
    ``parent`` are as in ``spec.Item``.
    """

    pipeline: str
    model: str
    version: str
    kind: str
    label: str
    score: float = 0.0
    count: int = 0
    """Number of items of this label; ``total`` counts all."""
    total: int = 0
    id: str = ""
    end_mono_ns: int = 0
    end_unix_ms: int = 0
    start_mono_ns: int = 0
    """Of an object's event: when it came into view, entered the zone or passed the line."""
    start_unix_ms: int = 0
    stage: str = ""
    zone: str = ""
    line: str = ""
    direction: str = ""
    """Which way the line was crossed."""
    dwell_s: float = 0.0
    speed_m_s: float | None = None
    tracks: tuple[int, ...] = ()
    trace_id: str = ""
    versions: dict[str, str] = {}
    box: Box | None = None
    value: float | None = None
    oriented_box: OrientedBox | None = None
    points: Points = ()
    point_names: tuple[str, ...] = ()
    point_scores: tuple[float, ...] = ()
    mask: Mask | None = None
    text: str = ""
    vector: tuple[float, ...] = ()
    parent: Parent | None = None
    image: bytes | None = None
    """A redacted JPEG, if a rule lets pixels leave."""


class UpdateRecord(Timed, frozen=True, tag="update", kw_only=True):
    """One transition of the update machine."""

    model: str
    version: str
    state: str
    event: str
    reason: str = ""
    rollout: str = ""
    previous: str = ""
    measured: dict[str, float] = {}
    """What the guards measured: frames, errors, p99_ms, p99_before_ms, event_ratio."""


class Alert(Timed, frozen=True, tag="alert", kw_only=True):
    """Something an operator should know: a fallback, a crash, a lost camera, a full disk."""

    level: Literal["info", "warning", "error"]
    code: str
    message: str
    pipeline: str = ""


class CommandAnswer(Timed, frozen=True, tag="answer", kw_only=True):
    """The outcome of a command."""

    id: str
    ok: bool
    message: str = ""


class MeasuredVariant(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one variant on one board; None where it did not run, with the reason in ``error``.

    ``content`` is ``spec.variant_hash``. ``pre_ms``: the median time to fill the input from an image's bytes.
    ``golden_difference``: a golden sample's largest; ``golden_ok``: all are within tolerance.
    """

    id: str
    content: str
    backend: str
    accelerator: str
    precision: str
    backend_version: str = ""
    bytes: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    inferences_per_s: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    rss_mb: float | None = None
    pre_ms: float | None = None
    golden_ok: bool | None = None
    golden_difference: float | None = None
    error: str | None = None


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """The board of a measurement."""

    profile: str
    board: str = ""
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    memory_mb: int = 0


class MeasurementRecord(Timed, frozen=True, tag="measurement", kw_only=True):
    """The costs of variants on a device, or why a measurement job has none.

    ``origin``: ``bench`` (a person on the device), ``install`` (the agent, for a new bundle), ``job`` (the
    fleet; ``job`` names it). A job may send ``postponed``, and ends with one ``done`` or ``failed`` (``code``
    and ``reason`` are the error's). ``sensors`` are read at the end; ``temperature_before_c`` and
    ``load_before`` (runnable processes, one-minute average) before.
    """

    origin: Literal["bench", "install", "job"]
    state: Literal["postponed", "done", "failed"] = "done"
    job: str = ""
    code: str = ""
    reason: str = ""
    model: str = ""
    version: str = ""
    bundle_sha256: str = ""
    board: Board | None = None
    threads: int = 0
    seconds: float = 0.0
    variants: tuple[MeasuredVariant, ...] = ()
    sensors: dict[str, float] = {}
    agent: str = ""


class Gap(Timed, frozen=True, tag="gap", kw_only=True):
    """Stands for messages ``first`` to ``last``, dropped over quota, so that the watermark passes them."""

    first: int
    last: int
    reason: str = "quota"


Record = Union[MetricReport, EventRecord, UpdateRecord, Alert, CommandAnswer, MeasurementRecord, Gap]  # noqa: UP007 - decoded at run time
_RECORDS = msgspec.msgpack.Decoder(Record)
"""Kept: to make it takes four times as long as to decode a record."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """``up/m`` and ``up/ev``: durable messages ``seq0``, ``seq0 + 1``, ... of one outbox.

    ``historical``: one of them waited for the link. The fleet corrects a wrong device clock: captured =
    arrival - (sent_mono - mono). ``lowest``: the lowest number that the outbox can still send, so that a
    fleet that lost acknowledged messages does not wait for them; 0: not said.
    """

    boot: str
    seq0: int
    items: list[Record]
    historical: bool = False
    sent_mono_ns: int = 0
    sent_unix_ms: int = 0
    lowest: int = 0


class RawBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A ``Batch`` of encoded items; the same bytes on the wire."""

    boot: str
    seq0: int
    items: list[msgspec.Raw]
    historical: bool = False
    sent_mono_ns: int = 0
    sent_unix_ms: int = 0
    lowest: int = 0


class Ack(msgspec.Struct, frozen=True, omit_defaults=True):
    """``down/ack``: the fleet has committed every message of this boot up to ``watermark``.

    ``delay_ms``: how far behind the fleet is; sending again earlier would only add to it. ``refused``: why
    messages of this device could not be used.
    """

    boot: str
    watermark: int
    delay_ms: int = 0
    refused: tuple[str, ...] = ()


# -- Requests and commands


class Request(msgspec.Struct, frozen=True):
    """``up/req``: a question to the fleet.

    Arguments of ``chunk``: sha256, offset, length; of ``renew``: csr; ``time`` and ``desired`` have none.
    """

    id: int
    kind: Literal["time", "desired", "chunk", "renew"]
    args: dict[str, Any] = {}
    sent_mono_ns: int = 0


class Response(msgspec.Struct, frozen=True):
    """``down/res``: the answer to a request other than ``chunk``; ``error`` if it failed."""

    id: int
    result: dict[str, Any] = {}
    error: str = ""


class Chunk(msgspec.Struct, frozen=True):
    """``down/res``: a piece of a blob: a 16-byte header (magic, id, offset), then bytes."""

    id: int
    offset: int
    data: bytes


CommandKind = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z_-]{0,31}$")]
"""``rollback``, ``restart``, ``report``, ``retry``, ``measure``, ``switch``, or what a later fleet has."""


class Command(msgspec.Struct, frozen=True):
    """``down/cmd``: an order, sent again until answered, so it must be idempotent."""

    id: str
    kind: CommandKind
    expires_unix_ms: int
    args: dict[str, Any] = {}


# -- Enrolment (HTTPS)


class EnrollRequest(msgspec.Struct, frozen=True):
    """A device's claim, and proof that it has its own key (PEM CSR)."""

    token: str
    csr: str
    name: str = ""
    hardware: Facts | None = None


class EnrollResponse(msgspec.Struct, frozen=True):
    """What an enrolled device needs: identity, broker, and roots of trust.

    ``root`` is TUF root metadata as JSON text; ``desired_keys`` maps key ids to the fleet's Ed25519 public
    keys in hexadecimal. Blobs are at ``{targets_url}/blobs/{sha256}``, a bundle's manifest at
    ``{targets_url}/{model}/{version}/{sha256}.bundle.json``.
    """

    device: str
    certificate: str
    ca: str
    broker_url: str
    metadata_url: str
    targets_url: str
    root: str
    desired_keys: dict[str, str]


class CarriedEnrolment(msgspec.Struct, frozen=True):
    """The fleet's answer to an enrolment, in a file: who carries it to the device is trusted."""

    fleet_url: str
    response: EnrollResponse


class CarriedOutbox(msgspec.Struct, frozen=True):
    """A part of a file that brings an outbox to the fleet: one batch, and its topic's ``leaf`` (ev or m).

    ``certificate`` is the device's own (PEM).
    """

    device: str
    certificate: str
    leaf: Literal["ev", "m"]
    batch: bytes


class SignedPart(msgspec.Struct, frozen=True):
    """A ``CarriedOutbox`` (MessagePack), and the ECDSA signature of ``part_bytes`` by the device's key."""

    body: bytes
    signature: bytes


def part_bytes(body: bytes) -> bytes:
    """Return the bytes that a part's signature covers; the device's key signs nothing else like them."""
    return b"edgekit outbox 1\n" + body


class CarriedAck(msgspec.Struct, frozen=True):
    """The fleet's answer in a file: it has committed every message of this boot up to ``watermark``."""

    device: str
    boot: str
    watermark: int
    signature: dict[str, str] | None = None
    """As a desired state's."""


def target_path(model: str, version: str) -> str:
    """Return the TUF target path of a bundle's manifest."""
    return f"{model}/{version}/bundle.json"


def measuring_path(model: str, sha256: str) -> str:
    """Return the TUF target path of a manifest for measuring only; no ``target_path`` is like it."""
    return f"{MEASURING}/{model}/{sha256}/bundle.json"


# -- Codecs

M = TypeVar("M")


_PACKED = (Batch, RawBatch, CarriedOutbox, SignedPart)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as sent: MessagePack for batches, a header and bytes for chunks, else JSON."""
    if isinstance(message, _PACKED):
        return msgspec.msgpack.encode(message)
    if isinstance(message, Chunk):
        return _CHUNK_HEADER.pack(_CHUNK_MAGIC, message.id, message.offset) + message.data
    return msgspec.json.encode(message)


def encode_record(record: Record) -> bytes:
    """Return one durable message as stored in the outbox (MessagePack)."""
    return msgspec.msgpack.encode(record)


def decode_record(data: bytes) -> Record:
    """Return one durable message.

    Raises:
        ProtocolError: The bytes are not one.
    """
    record: Record = _decoded(_RECORDS.decode, data, "record")
    return record


def decode(data: bytes, kind: type[M]) -> M:
    """Return a message of the given kind.

    Raises:
        ProtocolError: It is too large, malformed, or of another kind.
    """
    limit = MAX_DESIRED_BYTES if kind is Desired else MAX_MESSAGE_BYTES
    if len(data) > limit:
        raise ProtocolError(f"{kind.__name__}: {len(data)} bytes, at most {limit} are read")
    codec = msgspec.msgpack if kind in _PACKED else msgspec.json
    message: M = _decoded(partial(codec.decode, type=kind), data, kind.__name__)
    return message


def _decoded(decode: Callable[[bytes], Any], data: bytes, what: str) -> Any:
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise ProtocolError(f"{what}: {cause}") from cause


def decode_response(data: bytes) -> Response | Chunk:
    """Return the message in a payload of ``down/res``.

    Raises:
        ProtocolError: It is neither an answer nor a chunk.
    """
    if data[:4] != _CHUNK_MAGIC:
        return decode(data, Response)
    if not _CHUNK_HEADER.size < len(data) <= _CHUNK_HEADER.size + CHUNK_BYTES:
        raise ProtocolError(f"chunk: {len(data)} bytes")
    _, number, offset = _CHUNK_HEADER.unpack_from(data)
    return Chunk(number, offset, data[_CHUNK_HEADER.size :])
