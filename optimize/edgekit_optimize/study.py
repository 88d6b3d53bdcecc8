"""The results of one run of ``edgekit optimize``: the content of ``report.json``."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit_optimize.plan import Check, Plan

STUDY_FORMAT = 1


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's measured quality and the float model's, on the same samples.

    ``drop`` is ``reference - value``; ``low`` and ``high`` bound it with 95 % confidence (paired, by
    bootstrap). Metrics range from 0 to 1, higher is better.
    """

    metric: str
    value: float
    reference: float
    samples: int
    drop: float
    low: float
    high: float


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate cost on one machine: milliseconds for one inference, process memory in MB.

    ``profile`` is the device profile of the machine that measured. ``pre_ms`` is the median time to
    fill the input from an image's bytes. ``p95_ms`` is None for costs taken from a fleet,
    which does not record it. ``noise`` is the relative spread of the rounds' medians.
    """

    profile: str
    device: str = ""
    threads: int = 1
    p50_ms: float
    p95_ms: float | None = None
    p99_ms: float
    pre_ms: float = 0.0
    load_ms: float = 0.0
    rss_mb: float = 0.0
    noise: float = 0.0
    rounds: int = 0
    measured: str = ""

    @property
    def total_ms(self) -> float:
        """Time to fill the input and run the model; candidates are compared by this."""
        return self.p50_ms + self.pre_ms


class CandidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate: how it was made, its accuracy, times and size, and whether it was kept.

    ``error`` says why it could not be made or run. ``gate``: "pass", "fail", or "" if not
    measured; ``verdict`` says why in one sentence. ``timings`` has one row for each machine and
    thread count. ``front``: no other candidate is at least as good in accuracy, latency, size and
    memory, and better in one.
    """

    plan: Plan
    bytes: int = 0
    sha256: str = ""
    error: str = ""
    score: Score | None = None
    float_difference: float | None = None
    timings: tuple[Timing, ...] = ()
    gate: Literal["pass", "fail", ""] = ""
    verdict: str = ""
    front: bool = False
    kept: bool = False
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    integer_share: float | None = None
    make_s: float = 0.0
    cached: bool = False


class TargetResult(msgspec.Struct, frozen=True, kw_only=True):
    """The variant chosen for one board, and why the others were rejected.

    ``basis`` says what the choice rests on: "measured on this board", "measured on this machine, which
    is not the board", or "order of the profile". ``rejected`` has every reason, by candidate id.
    """

    profile: str
    title: str
    chosen: str = ""
    basis: str = ""
    why: str = ""
    order: tuple[str, ...] = ()
    rejected: dict[str, tuple[str, ...]] = {}


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The effect on the model's outputs of quantising one layer alone.

    ``sqnr_db``: signal to quantisation noise at the outputs, in decibels; lower is worse.
    ``agreement``: share of samples whose answer stays the same, NaN-free, 0 to 1.
    ``multiply_adds``: the layer's share of the model's work, 0 to 1.
    """

    layer: str
    operator: str
    sqnr_db: float
    agreement: float
    multiply_adds: float = 0.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One of a chosen candidate's worst samples; ``picture`` is a PNG as a data URI, or empty."""

    name: str
    candidate: str
    wanted: str
    reference: str
    found: str
    difference: float
    picture: str = ""


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The data that the study used."""

    source: str
    calibration: int
    evaluation: int
    labelled: bool
    dropped_overlap: int = 0
    sha256: str = ""


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured and chosen in one run."""

    format: int = STUDY_FORMAT
    model: str
    version: str
    bundle: str = ""
    command: str
    created: str
    edgekit: str
    machine: dict[str, str]
    versions: dict[str, str]
    source: dict[str, str]
    checks: tuple[Check, ...] = ()
    data: DataFacts
    metric: str
    metric_means: str
    max_drop: float
    budget_ms: float = 0.0
    budget_mb: float = 0.0
    reference: str
    candidates: tuple[CandidateResult, ...]
    targets: tuple[TargetResult, ...]
    sensitivity: tuple[LayerSensitivity, ...] = ()
    worst: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
