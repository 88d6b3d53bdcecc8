"""The structures of version 0.1's messages, word for word. Never changed."""

from __future__ import annotations

from typing import Any, Literal, Union

import msgspec

BackendName = Literal["litert", "onnxruntime", "openvino", "null", "foreign"]

AcceleratorKind = Literal["cpu", "edgetpu", "cuda", "tensorrt", "openvino-gpu", "npu", "myriad", "delegate"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Guards(_Strict, frozen=True, kw_only=True):
    p99_ms: float = 0.0
    p99_ratio: float = 0.0
    error_ratio: float = 0.0
    event_ratio: float = 0.0
    min_frames: int = 30


class Level(_Strict, frozen=True, kw_only=True):
    name: Literal["present", "driver", "permission", "library", "proof"]
    ok: bool
    detail: str = ""
    fix: str = ""


class AcceleratorFact(_Strict, frozen=True, kw_only=True):
    kind: AcceleratorKind
    name: str = ""
    usable: bool = False
    reason: str = ""
    attributes: dict[str, str] = {}
    levels: tuple[Level, ...] = ()


class BackendFact(_Strict, frozen=True, kw_only=True):
    name: BackendName
    version: str = ""
    accelerator: AcceleratorKind = "cpu"
    works: bool = False
    ms: float | None = None
    reason: str = ""


class Facts(_Strict, frozen=True, kw_only=True):
    arch: str
    board: str = ""
    compatible: tuple[str, ...] = ()
    cpu: str = ""
    cores: int = 1
    cpu_features: tuple[str, ...] = ()
    memory_mb: int = 0
    memory_free_mb: int = 0
    usb: tuple[str, ...] = ()
    pci: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    dmi: dict[str, str] = {}
    jetpack: str = ""
    accelerators: tuple[AcceleratorFact, ...] = ()
    backends: tuple[BackendFact, ...] = ()
    warnings: tuple[str, ...] = ()


class Sketch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scale: int
    zero: int
    offset: int
    counts: list[int]
    total: float
    low: float
    high: float


class Birth(msgspec.Struct, frozen=True):
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
    active: str = ""
    previous: str = ""
    staged: str = ""
    variant: str = ""
    backend: str = ""
    accelerator: str = ""
    why: str = ""


class UpdateState(msgspec.Struct, frozen=True):
    state: str
    model: str = ""
    version: str = ""
    reason: str = ""
    rollout: str = ""
    attempt: int = 0


class PipelineState(msgspec.Struct, frozen=True):
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


class OutboxState(msgspec.Struct, frozen=True):
    rows: int = 0
    bytes: int = 0
    dropped: int = 0
    last_seq: int = 0


class Reported(msgspec.Struct, frozen=True):
    boot: str
    version: int
    desired: int
    models: dict[str, ModelState] = {}
    updates: dict[str, UpdateState] = {}
    pipelines: dict[str, PipelineState] = {}
    outbox: OutboxState = OutboxState()
    sensors: dict[str, float] = {}
    rejected: dict[str, str] = {}
    unix_ms: int = 0


class DesiredModel(msgspec.Struct, frozen=True):
    version: str
    target: str
    sha256: str
    bytes: int
    rollout: str = ""
    soak_s: int = 30
    guards: Guards | None = None


class Desired(msgspec.Struct, frozen=True):
    device: str
    version: int
    models: dict[str, DesiredModel] = {}
    config: dict[str, Any] = {}
    issued_unix_ms: int = 0
    signature: dict[str, str] | None = None


class MetricReport(msgspec.Struct, frozen=True, tag="metric", kw_only=True):
    mono_ns: int
    unix_ms: int
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
    sensors: dict[str, float] = {}


class EventRecord(msgspec.Struct, frozen=True, tag="event", kw_only=True):
    mono_ns: int
    unix_ms: int
    pipeline: str
    model: str
    version: str
    kind: str
    label: str
    score: float = 0.0
    count: int = 0
    box: tuple[float, float, float, float] | None = None
    value: float | None = None
    image: bytes | None = None


class UpdateRecord(msgspec.Struct, frozen=True, tag="update", kw_only=True):
    mono_ns: int
    unix_ms: int
    model: str
    version: str
    state: str
    event: str
    reason: str = ""
    rollout: str = ""
    previous: str = ""
    measured: dict[str, float] = {}


class Alert(msgspec.Struct, frozen=True, tag="alert", kw_only=True):
    mono_ns: int
    unix_ms: int
    level: Literal["info", "warning", "error"]
    code: str
    message: str
    pipeline: str = ""


class CommandAnswer(msgspec.Struct, frozen=True, tag="answer", kw_only=True):
    mono_ns: int
    unix_ms: int
    id: str
    ok: bool
    message: str = ""


class MeasuredVariant(msgspec.Struct, frozen=True, kw_only=True):
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
    profile: str
    board: str = ""
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    memory_mb: int = 0


class MeasurementRecord(msgspec.Struct, frozen=True, tag="measurement", kw_only=True):
    mono_ns: int
    unix_ms: int
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


class Gap(msgspec.Struct, frozen=True, tag="gap", kw_only=True):
    mono_ns: int
    unix_ms: int
    first: int
    last: int
    reason: str = "quota"


Record = Union[MetricReport, EventRecord, UpdateRecord, Alert, CommandAnswer, MeasurementRecord, Gap]  # noqa: UP007


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    boot: str
    seq0: int
    items: list[Record]
    historical: bool = False
    sent_mono_ns: int = 0
    sent_unix_ms: int = 0


class RawBatch(msgspec.Struct, frozen=True, kw_only=True):
    boot: str
    seq0: int
    items: list[msgspec.Raw]
    historical: bool = False
    sent_mono_ns: int = 0
    sent_unix_ms: int = 0


class Ack(msgspec.Struct, frozen=True):
    boot: str
    watermark: int


class Request(msgspec.Struct, frozen=True):
    id: int
    kind: Literal["time", "desired", "chunk", "renew"]
    args: dict[str, Any] = {}
    sent_mono_ns: int = 0


class Response(msgspec.Struct, frozen=True):
    id: int
    result: dict[str, Any] = {}
    error: str = ""


class Chunk(msgspec.Struct, frozen=True):
    id: int
    offset: int
    data: bytes


class Command(msgspec.Struct, frozen=True):
    id: str
    kind: Literal["rollback", "restart", "report", "retry", "measure"]
    expires_unix_ms: int
    args: dict[str, Any] = {}


class EnrollRequest(msgspec.Struct, frozen=True):
    token: str
    csr: str
    name: str = ""
    hardware: Facts | None = None


class EnrollResponse(msgspec.Struct, frozen=True):
    device: str
    certificate: str
    ca: str
    broker_url: str
    metadata_url: str
    targets_url: str
    root: str
    desired_keys: dict[str, str]
