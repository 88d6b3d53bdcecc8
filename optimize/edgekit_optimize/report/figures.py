"""Derive from a study what the report shows: comparisons with float, verdicts, cautions. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgekit_optimize.report import numbers as no
from edgekit_optimize.study import CandidateResult, Score, Study, TargetResult, Timing

BACKEND_NAMES = {"litert": "LiteRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MAX_PAIRS = 3
"""Maximum number of comparisons in a verdict's sentence; the table of times has all."""
_NOISY = 0.15


@dataclass(frozen=True, order=True)
class Place:
    """A machine and a thread count that times were measured with."""

    profile: str
    device: str
    threads: int

    @property
    def words(self) -> str:
        """The place, for people."""
        where = f"{self.profile} ({self.device})" if self.device else self.profile
        return f"{where}, {no.count(self.threads, 'thread')}"


def place(timing: Timing) -> Place:
    """Return the machine and thread count of a time."""
    return Place(timing.profile, timing.device, timing.threads)


def places(study: Study) -> tuple[Place, ...]:
    """Return every machine and thread count with times, the one with most candidates first."""
    tally = Counter(place(timing) for result in study.candidates for timing in result.timings)
    return tuple(sorted(tally, key=lambda item: (-tally[item], item)))


def timing_at(result: CandidateResult, where: Place) -> Timing | None:
    """Return a candidate's time on a machine, or None."""
    return next((timing for timing in result.timings if place(timing) == where), None)


def find(study: Study, candidate: str) -> CandidateResult | None:
    """Return the candidate with this id, or None."""
    return next((result for result in study.candidates if result.plan.id == candidate), None)


def float_of(study: Study, result: CandidateResult) -> CandidateResult | None:
    """Return the result that a candidate is compared with: the float form on the same backend.

    If that could not be made or run, it is the study's reference; None if that failed too.
    """
    plain = [
        other
        for other in study.candidates
        if other.plan.backend == result.plan.backend
        and other.plan.precision == "fp32"
        and other.plan.root == "original"
        and other.plan.technique.endswith("-float")
        and not other.error
    ]
    same = [other for other in plain if other.plan.accelerator == result.plan.accelerator]
    # a file with preprocessing or fusion baked in is float too, but not the plain form
    ranked = sorted(same or plain, key=lambda other: len(other.plan.options))
    return ranked[0] if ranked else find(study, study.reference)


@dataclass(frozen=True)
class Pair:
    """A candidate's time and the float form's, on the same machine."""

    where: Place
    float_ms: float
    ms: float

    @property
    def gain(self) -> float:
        """The speed-up; 0 if a time is zero."""
        return self.float_ms / self.ms if self.ms > 0 else 0.0


def pairs(result: CandidateResult, base: CandidateResult, profile: str = "") -> tuple[Pair, ...]:
    """Return both times for every machine that measured both; only the board's own if it did."""
    both = []
    for timing in result.timings:
        other = timing_at(base, place(timing))
        if other is not None:
            both.append(Pair(place(timing), other.total_ms, timing.total_ms))
    there = [pair for pair in both if pair.where.profile == profile]
    return tuple(sorted(there or both, key=lambda pair: pair.where))


@dataclass(frozen=True)
class Verdict:
    """The variant that a board should run, and the float form it was compared with."""

    target: TargetResult
    chosen: CandidateResult | None
    base: CandidateResult | None
    pairs: tuple[Pair, ...]

    @property
    def is_float(self) -> bool:
        """Whether the chosen variant is the float form itself."""
        return self.chosen is not None and self.chosen is self.base

    @property
    def shrinks(self) -> float:
        """How many times smaller the file is; 0 if a size is unknown."""
        if self.chosen is None or self.base is None or not self.chosen.bytes:
            return 0.0
        return self.base.bytes / self.chosen.bytes

    @property
    def same_size(self) -> bool:
        """Whether the file is as large as float's when rounded to two digits."""
        return 0.95 < self.shrinks < 1.05


def verdict(study: Study, target: TargetResult) -> Verdict:
    """Return the variant chosen for a board and its float form."""
    chosen = find(study, target.chosen) if target.chosen else None
    if chosen is None:
        return Verdict(target, None, None, ())
    base = float_of(study, chosen)
    both = pairs(chosen, base, target.profile) if base is not None and base is not chosen else ()
    return Verdict(target, chosen, base, both)


def sentence(study: Study, board_verdict: Verdict) -> str:
    """Return the verdict for one board in one sentence."""
    target, chosen = board_verdict.target, board_verdict.chosen
    if chosen is None:
        return f"{target.title}: no variant was chosen: {_ended(target.why or 'the study gives no reason')}"
    if board_verdict.is_float:
        says = f"{target.title} runs {chosen.plan.id}, the float form itself"
        return f"{says}: {_ended(target.why or 'nothing within the gate beats it')}"
    parts = [
        _speed_words(board_verdict),
        _size_words(board_verdict),
        loss_words(chosen.score, study.metric),
    ]
    body = ", ".join(part for part in parts if part)
    return f"{target.title} runs {chosen.plan.id}: {body}; {basis_words(target)}."


def _ended(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def basis_words(target: TargetResult) -> str:
    """Return the basis of the choice, as the end of a sentence."""
    return f"basis: {target.basis or 'not stated'}"


def _speed_words(board_verdict: Verdict) -> str:
    if board_verdict.base is None:
        return "no float form to compare with"
    name = base_words(board_verdict)
    if not board_verdict.pairs:
        return f"speed against {name} not measured"
    first, *others = board_verdict.pairs[:MAX_PAIRS]
    said = [
        f"{no.times(first.gain)} times as fast as {name} ({_pair_words(first, board_verdict.target.profile)})"
    ]
    said += [
        f"{no.times(pair.gain)} times ({_pair_words(pair, board_verdict.target.profile)})" for pair in others
    ]
    return " and ".join(said)


def _pair_words(pair: Pair, board: str) -> str:
    """Return both times and the thread count; the machine is named if it is not the board."""
    where = no.count(pair.where.threads, "thread")
    if pair.where.profile != board:
        where += f" of {pair.where.profile}"
    return f"{no.significant(pair.ms)} against {no.milliseconds(pair.float_ms)}, {where}"


def base_words(board_verdict: Verdict) -> str:
    """Return the name of the float form that the chosen variant is compared with."""
    if board_verdict.base is None or board_verdict.chosen is None:
        return "nothing"
    name = BACKEND_NAMES.get(board_verdict.base.plan.backend, board_verdict.base.plan.backend)
    name += (
        "" if board_verdict.base.plan.accelerator == board_verdict.chosen.plan.accelerator else " on the CPU"
    )
    if board_verdict.base.plan.backend == board_verdict.chosen.plan.backend:
        return f"float on {name}"
    return f"the reference {board_verdict.base.plan.id} (there is no float form on the same backend)"


def _size_words(board_verdict: Verdict) -> str:
    if not board_verdict.shrinks or board_verdict.base is None or board_verdict.chosen is None:
        return "size not known"
    sizes = f"{no.size(board_verdict.chosen.bytes)} against {no.size(board_verdict.base.bytes)}"
    if board_verdict.same_size:
        return f"about the same size ({sizes})"
    if board_verdict.shrinks < 1:
        return f"{no.times(1 / board_verdict.shrinks)} times larger ({sizes})"
    return f"{no.times(board_verdict.shrinks)} times smaller ({sizes})"


def loss_words(score: Score | None, metric: str) -> str:
    """Return the accuracy lost or gained, with its interval."""
    if score is None:
        return "accuracy not measured"
    way = "gained" if no.points(score.drop).startswith(no.MINUS) else "lost"
    says = f"{no.points(abs(score.drop))} points of {metric} {way}"
    return f"{says} (95 % interval of the loss: {interval(score)})"


def interval(score: Score) -> str:
    """Return the interval of a drop, in points."""
    return f"{no.points(score.low)} to {no.points(score.high)}"


def interval_gained(score: Score) -> str:
    """Return the interval of a gain, in points."""
    return f"{no.points(-score.high)} to {no.points(-score.low)}"


def reference_value(study: Study) -> float | None:
    """Return the metric of the float model, or None if nothing was scored."""
    held = find(study, study.reference)
    if held is not None and held.score is not None:
        return held.score.value
    tally = Counter(
        candidate.score.reference for candidate in study.candidates if candidate.score is not None
    )
    return tally.most_common(1)[0][0] if tally else None


def front(at: dict[int, tuple[float, float]]) -> list[int]:
    """Return the keys of the Pareto front: lower first number, higher second number.

    >>> front({0: (1.0, 0.7), 1: (2.0, 0.9), 2: (3.0, 0.8), 3: (2.0, 0.6)})
    [0, 1]
    """
    kept: list[int] = []
    for key in sorted(at, key=lambda key: (at[key][0], -at[key][1])):
        if not kept or at[key][1] > at[kept[-1]][1]:
            kept.append(key)
    return kept


def cautions(study: Study) -> tuple[str, ...]:
    """Return the study's warnings, and those that follow from its figures."""
    warnings = [*study.warnings]
    warnings += [
        f"The conversion {check.conversion} by {check.tool} changes the model's outputs: they differ by "
        f"{no.significant(check.max_abs)} where they range up to {no.significant(check.scale)}."
        for check in study.checks
        if not check.holds
    ]
    warnings += [
        f"{c.plan.id} is in the bundle although it failed the gate: {c.verdict or c.error}"
        for c in study.candidates
        if c.kept and c.gate == "fail"
    ]
    return (*warnings, *_uncertain(study), *_noise(study))


def _uncertain(study: Study) -> list[str]:
    """Return a warning for each chosen variant that passes, but whose interval exceeds the gate."""
    chosen = {target.chosen for target in study.targets}
    return [
        f"{candidate.plan.id} passes the gate by its estimate, but the interval reaches "
        f"{no.points(candidate.score.high)} points, beyond the {no.points(study.max_drop)} allowed: "
        f"{no.count(candidate.score.samples, 'sample')} are too few to rule that out."
        for candidate in study.candidates
        if candidate.plan.id in chosen
        and candidate.score is not None
        and candidate.gate == "pass"
        and study.max_drop < candidate.score.high
    ]


def _noise(study: Study) -> list[str]:
    noisy = [
        candidate
        for candidate in study.candidates
        if any(timing.noise > _NOISY for timing in candidate.timings)
    ]
    if not noisy:
        return []
    worst = max(timing.noise for candidate in noisy for timing in candidate.timings)
    said = f"Times were noisy: for {no.count(len(noisy), 'candidate')} the rounds differ by up to "
    return [f"{said}{no.percent(worst, 0)}. Read ratios, not milliseconds, or measure on a quiet machine."]


def tools(study: Study) -> tuple[tuple[str, str], ...]:
    """Return every tool and version that took part, sorted; a tool with two versions is listed twice."""
    versions = {("edgekit", study.edgekit), *study.versions.items()}
    for candidate in study.candidates:
        versions.update(candidate.tools.items())
    return tuple(sorted(versions))
