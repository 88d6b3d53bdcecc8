"""Everything one run of ``edgekit optimize`` found: what ``report.json`` holds and the report shows."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit_optimize.plan import Check, Plan

STUDY_FORMAT = 1


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate's measured quality next to the float model's, on the same samples.

    ``drop`` is ``reference - value``; ``low`` and ``high`` bound it with 95 % confidence (paired, by
    bootstrap). Metrics lie between 0 and 1, higher is better.
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
    fill the input from an image's bytes. ``p95_ms`` is None where only a fleet's record of costs tells
    the rest. ``noise`` is the relative spread of the rounds' medians.
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
        """Filling the input and running the model: what candidates are compared by."""
        return self.p50_ms + self.pre_ms


class CandidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate: how it was made, how good, how fast, how large, and what became of it.

    ``error`` says why it could not be made or run. ``gate``: "pass", "fail", or "" where it was not
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
    """What was chosen for one board, and why nothing else was.

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
    """What quantising one layer alone does to the model's outputs.

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
    """A sample that a chosen candidate got most wrong; ``picture`` is a PNG as a data URI, or empty."""

    name: str
    candidate: str
    wanted: str
    reference: str
    found: str
    difference: float
    picture: str = ""


class DataFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which data the study used."""

    source: str
    calibration: int
    evaluation: int
    labelled: bool
    dropped_overlap: int = 0
    sha256: str = ""


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the search."""

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
