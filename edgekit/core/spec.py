"""The data every part shares: tensors, bundles, hardware facts, device profiles, predictions."""

import hashlib
import math
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from edgekit.core.errors import BundleError
from edgekit.core.structure import decode_json

# Source: Open Inference Protocol v2, "Tensor Data Types".
Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
BackendName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
LevelName = Annotated[str, msgspec.Meta(max_length=64)]
"""``present``, ``driver``, ``permission``, ``library`` or ``proof``; a newer device may say more."""
AcceleratorKind = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
"""A row of ``base.accelerators``; an unknown one is refused only where it would run."""
Precision = Literal["fp32", "fp16", "bf16", "int8", "int16x8", "dynamic-int8", "int4"]

BUNDLE_FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 4 << 30
MAX_BATCH = 1024
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
AGENT = "edgekit-agent"
"""The name of a release of the agent: as a model, as a task, and as the backend of its variants."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen structure that refuses unknown keys; messages, unlike files, accept them."""


class Quantization(_Strict, frozen=True, kw_only=True):
    """How integers stand for reals: ``real = scale * (integer - zero_point)``."""

    scale: float
    zero_point: int = 0


class TensorSpec(_Strict, frozen=True, kw_only=True):
    """One input or output of a model; -1 in ``shape`` is a free dimension.

    Backends set ``quantization`` for quantised integers; a manifest's logical tensors never have it.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    layout: Literal["NHWC", "NCHW", ""] = ""
    quantization: Quantization | None = None


class Column(_Strict, frozen=True, kw_only=True):
    """One column of a table: the input that it feeds and its position there; ``(x - mean) / std`` is fed.

    ``missing`` stands for a value that is not there ("nan" for a model that takes those); without it a row
    that lacks the value is refused.
    """

    name: str
    input: str
    index: int = 0
    missing: float | str | None = None
    mean: float = 0.0
    std: float = 1.0


class FrontEnd(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """How a window of sound becomes frames of mel bands (``mel``), their cepstrum (``mfcc``), or ``micro``.

    Frames of ``frame`` samples begin every ``step``; each is tapered, transformed with ``fft`` points (0: the
    next power of two), summed into ``bands`` from ``low_hz`` to ``high_hz`` (0: half the rate) and made
    logarithmic; ``frames`` is the most of them. docs/bundle.md says what each library's defaults are.
    ``micro`` is TensorFlow Lite Micro's front end, which has its own filters, noise reduction and gain.
    """

    kind: Literal["mel", "mfcc", "micro"] = "mel"
    frame: int
    step: int
    fft: int = 0
    taper: Literal["hann", "hann-symmetric", "hamming", "hamming-symmetric", "povey", "none"] = "hann"
    frames: int = 0
    padding: Literal["none", "zeros", "reflect"] = "none"
    emphasis: float = 0.0
    removes_mean: bool = False
    is_magnitude: bool = False
    bands: int = 40
    low_hz: float = 0.0
    high_hz: float = 0.0
    scale: Literal["htk", "slaney"] = "htk"
    slopes: Literal["hz", "mel"] = "hz"
    is_area: bool = False
    log: Literal["ln", "log10", "db", "none"] = "ln"
    offset: float = 0.0
    floor: float = 1e-10
    top_db: float = 0.0
    coefficients: int = 13
    dct: Literal["ortho", "htk"] = "ortho"
    lifter: int = 0
    gain: float = 1.0


class Pre(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """How a frame becomes the model's input: resize, colour, ``(x - mean) / std``.

    ``is_transposed``: the picture's columns are the input's rows (MTCNN). An image's ``mean`` and ``std``
    have one value or three, in the range of pixels (0 to 255); ``crop_ratio`` is the share of the shorter
    side that ``crop`` keeps; ``align`` is where a letterbox puts the image, ``pad`` the grey around it. A
    sensor model has ``resize="none"``, ``window`` samples per input, ``hop`` new samples between windows,
    ``context`` samples of the window before put in front, and one ``mean`` and ``std`` for each channel. A
    model of sound may have a ``front_end``: its ``mean`` and ``std`` are then of features, one or one for
    each band. A model of tables has ``columns``.
    """

    resize: Literal["letterbox", "stretch", "crop", "none"] = "stretch"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad: int = 114
    align: Literal["centre", "top-left"] = "centre"
    crop_ratio: float = 1.0
    window: int = 0
    hop: int = 0
    context: int = 0
    rate_hz: float = 0.0
    front_end: FrontEnd | None = None
    columns: tuple[Column, ...] = ()
    is_transposed: bool = False


class Post(_Strict, frozen=True, kw_only=True):
    """How the model's outputs become a prediction; ``options`` are the decoder's own."""

    decoder: str = "raw"
    score_threshold: float = 0.5
    iou_threshold: float = 0.45
    top_k: int = 5
    options: dict[str, Any] = {}


class State(_Strict, frozen=True, kw_only=True):
    """A recurrent tensor: ``output`` is fed to ``input`` next time; zeros at first."""

    input: str
    output: str


class VariantFile(_Strict, frozen=True, kw_only=True):
    """One file of a variant; the first is the one the runtime opens."""

    path: str
    bytes: int
    sha256: str


class Requires(_Strict, frozen=True, kw_only=True):
    """What a variant needs of a device; empty means any."""

    arch: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    backend_version: str = ""
    edgetpu_runtime: str = ""
    memory_mb: int = 0


class Quality(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """A variant's measured quality, and the float model's (``reference``) on the same samples.

    ``beyond_gate``: it lost more than allowed, and runs only if named.
    """

    metric: str
    value: float
    reference: float
    samples: int
    beyond_gate: bool = False


class Cost(_Strict, frozen=True, kw_only=True):
    """What one inference of a variant cost on one kind of board."""

    profile: str
    p50_ms: float
    p99_ms: float
    rss_mb: float = 0.0
    measured: str = ""


class Adjust(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """How a file's output becomes the logical one: its axes are permuted, then values are scaled.

    ``factors`` multiply the values along ``axis`` of the permuted output, one for each position.
    """

    permute: tuple[int, ...] = ()
    axis: int = 0
    factors: tuple[float, ...] = ()


class Variant(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """One compiled, compressed form of a model for one backend and accelerator.

    ``inputs`` and ``outputs`` map logical tensor names to this file's, ``layout`` is this file's image
    layout, and ``adjust`` says how its outputs become the logical ones, where they differ. ``batch``: the
    batch sizes it was built for, the usual one first, or "free"; empty opens it at the file's own batch, or
    at 1.
    """

    id: str
    backend: BackendName
    accelerator: AcceleratorKind = "cpu"
    precision: Precision = "fp32"
    files: tuple[VariantFile, ...] = ()
    requires: Requires = Requires()
    quality: Quality | None = None
    cost: tuple[Cost, ...] = ()
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    adjust: dict[str, Adjust] = {}
    layout: Literal["NHWC", "NCHW", ""] = ""
    batch: tuple[int, ...] | Literal["free"] = ()
    options: dict[str, Any] = {}


def variant_hash(variant: Variant) -> str:
    """Return the SHA-256 (hexadecimal) of what a variant's speed depends on, besides the board.

    Variants of one hash have one cost, under whatever id, model and version.
    """
    parts = [file.sha256 for file in variant.files]
    parts += [variant.backend, variant.accelerator, variant.precision]
    parts.append(msgspec.json.encode(variant.options, order="sorted").decode())
    if variant.batch not in ("free", ()):
        parts.append(f"batch {variant.batch[0]}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Golden(_Strict, frozen=True, kw_only=True):
    """A recorded input and expected output, as NPZ files of logical tensors.

    Inputs are resized and not yet normalised (images: uint8, NHWC); outputs are reals in the manifest's
    shapes. ``atol`` bounds the largest difference; ``atol_by_precision`` overrides it.
    """

    inputs: str
    outputs: str
    atol: float = 0.05
    atol_by_precision: dict[str, float] = {}

    def tolerance(self, precision: str) -> float:
        """Return the largest allowed difference for a variant of this precision."""
        return self.atol_by_precision.get(precision, self.atol)


class Guards(_Strict, frozen=True, kw_only=True):
    """Rules on measured behaviour that a trial must keep; 0 means no rule.

    ``p99_ms``: inference time; ``p99_ratio``: the same, against the previous version on this device.
    ``error_ratio``: failed frames to all. ``event_ratio``: the factor by which predictions per frame may rise
    or fall against the previous version. ``min_frames``: needed before a commit.
    """

    p99_ms: float = 0.0
    p99_ratio: float = 0.0
    error_ratio: float = 0.0
    event_ratio: float = 0.0
    min_frames: int = 30

    def slow_ms(self, before_ms: float, period_ms: float) -> float:
        """Return above which time an inference is slow by ``p99_ratio``, given the previous version's.

        It is at least 1 ms, or 5 % of a frame's period, above ``before_ms``: less costs nobody anything,
        and twice 0.1 ms is within what a machine's own noise moves.

        >>> Guards(p99_ratio=2).slow_ms(0.1, 100.0), Guards(p99_ratio=2).slow_ms(40.0, 100.0)
        (5.1, 80.0)
        """
        return max(self.p99_ratio * before_ms, before_ms + max(1.0, 0.05 * period_ms))


class Finding(_Strict, frozen=True, omit_defaults=True):
    """One conclusion of ``edgekit import``: the ``value`` of ``key``, where it comes from, and why.

    ``key`` is a field of ``pre`` or ``post``, one of task, labels, size and license, or an option of the
    decoder. ``source``: *metadata* and *signature* of the file, *tried* on inputs, *assumed* by the family's
    convention, or a *flag* of the user.
    """

    key: str
    value: Any
    source: Literal["metadata", "signature", "tried", "assumed", "flag"]
    why: str = ""


class Provenance(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """Where a bundle comes from.

    ``family``, ``conclusions``, ``not_compared`` (variants that did not run where it was imported) and
    ``excluded`` (what was left out, by variant, and why) are what ``edgekit import`` found out.
    """

    source: str = ""
    command: str = ""
    parents: tuple[str, ...] = ()
    family: str = ""
    conclusions: tuple[Finding, ...] = ()
    not_compared: tuple[str, ...] = ()
    excluded: dict[str, str] = {}


class Manifest(_Strict, frozen=True, kw_only=True):
    """The content of ``bundle.json``."""

    format: int
    model: str
    version: str
    task: str
    license: str = ""
    created: str = ""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    pre: Pre = Pre()
    post: Post = Post()
    state: tuple[State, ...] = ()
    constants: dict[str, tuple[float, ...]] = {}
    labels: str = ""
    variants: tuple[Variant, ...]
    golden: tuple[Golden, ...] = ()
    guards: Guards = Guards()
    provenance: Provenance = Provenance()
    files: tuple[VariantFile, ...] = ()
    """Labels and golden samples."""

    def data_inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs that take a frame's data: neither recurrent state nor constants."""
        held = {state.input for state in self.state} | self.constants.keys()
        return tuple(spec for spec in self.inputs if spec.name not in held)

    def every_file(self) -> tuple[VariantFile, ...]:
        """Return each file of the bundle but ``bundle.json``, once, sorted by path."""
        by_path = {f.path: f for v in self.variants for f in v.files} | {f.path: f for f in self.files}
        return tuple(by_path[path] for path in sorted(by_path))


def parse_manifest(data: bytes, what: str = "bundle.json") -> Manifest:
    """Return a checked manifest from the bytes of ``bundle.json``; ``what`` names it in errors.

    Raises:
        BundleError: It is not JSON or over 1 MiB, misses or has an unknown field, has a file path outside the
            bundle, a size or hash out of range, or a duplicate.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{what}: {len(data)} bytes, a manifest has at most {MAX_MANIFEST_BYTES}")
    manifest = decode_json(data, Manifest, what, BundleError)
    problems = tuple(_manifest_problems(manifest))
    if problems:
        raise BundleError(f"{what} is not a valid manifest", reasons=problems)
    return manifest


def _manifest_problems(manifest: Manifest) -> list[str]:
    problems = []
    if manifest.format != BUNDLE_FORMAT:
        problems.append(f"format: want {BUNDLE_FORMAT}, got {manifest.format}")
    for field, name in (("model", manifest.model), ("task", manifest.task)):
        if not NAME.fullmatch(name):
            problems.append(f"{field}: want lower-case letters, digits, '.', '_', '-', got {name!r}")
    if not VERSION.fullmatch(manifest.version):
        problems.append(f"version: want MAJOR.MINOR.PATCH, got {manifest.version!r}")
    ids = [variant.id for variant in manifest.variants]
    if not ids:
        problems.append("variants: want at least one")
    problems += [
        f"variants: {name!r} is there twice" for name in sorted({i for i in ids if ids.count(i) > 1})
    ]
    names = {spec.name for spec in manifest.inputs}
    problems += [f"constants: there is no input {name!r}" for name in manifest.constants if name not in names]
    for variant in manifest.variants:
        if not NAME.fullmatch(variant.id):
            problems.append(f"variants: {variant.id!r} is not a valid id")
        if not variant.files and variant.backend != "null":
            problems.append(f"variants: {variant.id!r} has no file")
        if variant.batch != "free" and not all(1 <= size <= MAX_BATCH for size in variant.batch):
            problems.append(f"variants: {variant.id!r}: batch: want sizes from 1 to {MAX_BATCH} or 'free'")
    return problems + _file_problems(manifest)


def _file_problems(manifest: Manifest) -> list[str]:
    problems = []
    known: dict[str, VariantFile] = {}
    for file in (*(f for v in manifest.variants for f in v.files), *manifest.files):
        if (reason := path_problem(file.path)) is not None:
            problems.append(f"{file.path!r}: {reason}")
        if not 0 <= file.bytes <= MAX_FILE_BYTES:
            problems.append(f"{file.path!r}: size {file.bytes} is not in 0..{MAX_FILE_BYTES}")
        if not _SHA256.fullmatch(file.sha256):
            problems.append(f"{file.path!r}: sha256 is not 64 lower-case hex digits")
        if known.setdefault(file.path, file) != file:
            problems.append(f"{file.path!r}: is listed twice, with different size or hash")
    folders = {str(parent) for path in known for parent in PurePosixPath(path).parents}
    problems += [f"{path!r}: is a file and a folder" for path in sorted(folders & known.keys())]
    named = [
        manifest.labels,
        *(path for golden in manifest.golden for path in (golden.inputs, golden.outputs)),
    ]
    return problems + [
        f"files: {path!r} is named but not listed" for path in named if path and path not in known
    ]


def path_problem(path: str) -> str | None:
    """Return why a path may not be a bundle member's, or None where it may.

    >>> path_problem("variants/int8.tflite") is None
    True
    >>> path_problem("../etc/passwd")
    "leaves the bundle ('..')"
    """
    parts = PurePosixPath(path).parts
    if not parts or path != str(PurePosixPath(path)) or len(path) > 200:
        return "is not a plain relative path of at most 200 characters"
    if path.startswith("/"):
        return "is absolute"
    if ".." in parts:
        return "leaves the bundle ('..')"
    if "\\" in path or any(ord(character) < 32 for character in path):
        return "has a backslash or a control character"
    return "is the manifest's own name" if path == "bundle.json" else None


def version_key(version: str) -> tuple[int, ...]:
    """Return a sortable key of a dotted version; each part ends at its first non-digit.

    >>> version_key("2.10.1") > version_key("2.9.9")
    True
    """
    return tuple(
        int(digits.group()) if (digits := re.match(r"\d+", part)) else 0 for part in version.split(".")
    )


# -- Hardware: what a device has (facts), and what a kind of board has (profile)


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """A check between "on the bus" and "runs a model", and a fix."""

    name: LevelName
    ok: bool
    detail: str = ""
    fix: str = ""


class AcceleratorFact(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator: usable, or the reason why not (the first level that failed).

    ``attributes``: such as ``runtime`` (Edge TPU), ``compute`` (CUDA, "8.7"), ``speed_mbps`` (USB), ``node``.
    """

    kind: AcceleratorKind
    name: str = ""
    usable: bool = False
    reason: str = ""
    attributes: dict[str, str] = {}
    levels: tuple[Level, ...] = ()


class BackendFact(msgspec.Struct, frozen=True, kw_only=True):
    """One backend on one accelerator, proved by running a tiny model; ``reason``: why it does not work."""

    name: BackendName
    version: str = ""
    accelerator: AcceleratorKind = "cpu"
    works: bool = False
    ms: float | None = None
    reason: str = ""


RETRY_S = (5.0, 600.0)
"""The wait in seconds before a lost variant is tried again: from .. to, doubled each time."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What hardware detection found on a device."""

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


class Match(_Strict, frozen=True, kw_only=True):
    """When a profile fits: every given rule must hold, by one of its shell patterns.

    ``compatible`` and ``model`` both name the board and make one rule.
    """

    arch: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    usb: tuple[str, ...] = ()
    pci: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    dmi: dict[str, str] = {}
    memory_mb: tuple[int, int] | None = None


class ProfileAccelerator(_Strict, frozen=True, kw_only=True):
    """An accelerator that boards of this profile have."""

    kind: AcceleratorKind
    name: str = ""
    needs: str = ""


class ProfileBackend(_Strict, frozen=True, kw_only=True):
    """A backend on an accelerator, in order of preference, with the options it is opened with."""

    name: BackendName
    accelerator: AcceleratorKind = "cpu"
    precisions: tuple[Precision, ...] = ()
    options: dict[str, Any] = {}


class Limits(_Strict, frozen=True, kw_only=True):
    """Limits of a board; 0 means not stated."""

    memory_mb: int = 0
    temperature_c: float = 0.0
    power_w: float = 0.0


class Telemetry(_Strict, frozen=True, kw_only=True):
    """The files of a board's sensors, as globs below the root."""

    temperature: tuple[str, ...] = ()
    power: tuple[str, ...] = ()
    throttling: tuple[str, ...] = ()


class Profile(_Strict, frozen=True, kw_only=True):
    """One kind of board."""

    id: str
    title: str
    match: Match = Match()
    accelerator: tuple[ProfileAccelerator, ...] = ()
    backend: tuple[ProfileBackend, ...] = ()
    limits: Limits = Limits()
    telemetry: Telemetry = Telemetry()
    notes: str = ""


# -- Predictions

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the source frame."""
Points = tuple[tuple[float, float], ...]
OrientedBox = tuple[float, float, float, float, float]
"""Centre x, centre y, width, height in pixels; the width's angle to the x axis in radians, clockwise."""


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the picture an item covers: a grid of cells over ``area``, maybe coarser than the picture.

    ``runs``: lengths of alternating runs, off first, row by row; they sum to ``width * height``.
    """

    area: Box
    width: int
    height: int
    runs: tuple[int, ...]

    def extent(self) -> Box | None:
        """Return the box around the cells that are on, or None where none is."""
        rows, columns, at = [], [], 0
        for number, length in enumerate(self.runs):
            if number % 2 and length:
                first, last = at, at + length - 1
                rows += [first // self.width, last // self.width]
                is_one_row = rows[-1] == rows[-2]
                columns += [first % self.width, last % self.width] if is_one_row else [0, self.width - 1]
            at += length
        if not rows:
            return None
        left, top, right, bottom = self.area
        x, y = (right - left) / self.width, (bottom - top) / self.height
        return (
            left + min(columns) * x,
            top + min(rows) * y,
            left + (max(columns) + 1) * x,
            top + (max(rows) + 1) * y,
        )


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """The item that contains another: its stage, and its index among that stage's items."""

    stage: str
    item: int


def corners(oriented: OrientedBox) -> Points:
    """Return the four corners of an oriented box, clockwise from its own top left.

    >>> [(round(x), round(y)) for x, y in corners((10, 10, 8, 4, math.pi / 2))]
    [(12, 6), (12, 14), (8, 14), (8, 6)]
    """
    x, y, width, height, angle = oriented
    cos, sin = math.cos(angle), math.sin(angle)
    halves = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return tuple(
        (x + (a * width * cos - b * height * sin) / 2, y + (a * width * sin + b * height * cos) / 2)
        for a, b in halves
    )


class Item(_Strict, frozen=True, kw_only=True, omit_defaults=True):
    """One detection; a field that its task does not have stays at its default.

    ``points``: (x, y) in pixels of the source frame, ``point_names`` and ``point_scores`` in the same order.
    ``vector``: an embedding. ``value``: a decoder's own number (a regression's, an anomaly's score before
    thresholding). ``track``: the object's number over frames. ``stage``: the stage after the first that found
    it, of a pipeline of several models; ``parent``: the item in whose crop it did.
    """

    label: str = ""
    score: float | None = None
    index: int = -1
    box: Box | None = None
    points: Points = ()
    value: float | None = None
    oriented_box: OrientedBox | None = None
    point_names: tuple[str, ...] = ()
    point_scores: tuple[float, ...] = ()
    mask: Mask | None = None
    text: str = ""
    vector: tuple[float, ...] = ()
    track: int | None = None
    parent: Parent | None = None
    stage: str = ""

    def extent(self) -> Box | None:
        """Return the upright box around it, or None where it has no position in the picture.

        Keypoints count only where there is neither a box nor a mask.
        """
        if self.oriented_box is None and self.mask is None and (self.box is not None or not self.points):
            return self.box
        around = [box for box in (self.box, self.mask and self.mask.extent()) if box is not None]
        if self.oriented_box is not None:
            around.append(_around(corners(self.oriented_box)))
        if not around and self.points:
            around.append(_around(self.points))
        if not around:
            return None
        left, top, right, bottom = zip(*around, strict=True)
        return (min(left), min(top), max(right), max(bottom))


def _around(points: Points) -> Box:
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


class Prediction(_Strict, frozen=True, kw_only=True):
    """The result for one frame, best item first.

    ``tensors``: by decoder "raw", float32 copies of the outputs by logical name; by "depth" and "heatmap",
    their map over the picture, shape (height, width), float32.
    """

    task: str
    items: tuple[Item, ...] = ()
    tensors: dict[str, Any] = {}

    @property
    def best(self) -> Item | None:
        """The item with the highest score, or None."""
        return self.items[0] if self.items else None

    def counts(self) -> dict[str, int]:
        """Return the number of items of each label; items without a label are not counted."""
        counts: dict[str, int] = {}
        for item in self.items:
            if item.label:
                counts[item.label] = counts.get(item.label, 0) + 1
        return counts
