"""What a study says, worked out: comparisons with float, verdicts in a sentence, cautions. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgekit_optimize.report import numbers as no
from edgekit_optimize.study import CandidateResult, Score, Study, TargetResult, Timing

BACKEND_NAMES = {"litert": "LiteRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MAX_PAIRS = 3
"""Comparisons that a verdict's sentence names; the table of times has all."""
_NOISY = 0.15


@dataclass(frozen=True, order=True)
class Place:
    """Where times were measured: a machine, and with how many threads."""

    profile: str
    device: str
    threads: int

    @property
    def words(self) -> str:
        """The place, for people."""
        where = f"{self.profile} ({self.device})" if self.device else self.profile
        return f"{where}, {no.count(self.threads, 'thread')}"


def place(timing: Timing) -> Place:
    """Return where a time was measured."""
    return Place(timing.profile, timing.device, timing.threads)


def places(study: Study) -> tuple[Place, ...]:
    """Return every place with times, that with most candidates first."""
    tally = Counter(place(timing) for result in study.candidates for timing in result.timings)
    return tuple(sorted(tally, key=lambda one: (-tally[one], one)))


def timing_at(result: CandidateResult, where: Place) -> Timing | None:
    """Return a candidate's time at a place, or None."""
    return next((timing for timing in result.timings if place(timing) == where), None)


def find(study: Study, candidate: str) -> CandidateResult | None:
    """Return the candidate of this id, or None."""
    return next((one for one in study.candidates if one.plan.id == candidate), None)


def float_of(study: Study, result: CandidateResult) -> CandidateResult | None:
    """Return what a candidate is compared with: the float form on the same backend.

    Where that could not be made or run, it is the study's reference; None where that failed too.
    """
    plain = [
        one
        for one in study.candidates
        if one.plan.backend == result.plan.backend
        and one.plan.precision == "fp32"
        and one.plan.root == "original"
        and one.plan.technique.endswith("-float")
        and not one.error
    ]
    same = [one for one in plain if one.plan.accelerator == result.plan.accelerator]
    # a file with pixels or fusing baked in is float too, but not the plain form
    ranked = sorted(same or plain, key=lambda one: len(one.plan.options))
    return ranked[0] if ranked else find(study, study.reference)


@dataclass(frozen=True)
class Pair:
    """A candidate's time and the float form's, at the same place."""

    where: Place
    float_ms: float
    ms: float

    @property
    def gain(self) -> float:
        """How many times as fast; 0 where a time of zero says nothing."""
        return self.float_ms / self.ms if self.ms > 0 else 0.0


def pairs(result: CandidateResult, base: CandidateResult, profile: str = "") -> tuple[Pair, ...]:
    """Return both times at every place where both were measured; on the board alone if it was there."""
    found = []
    for timing in result.timings:
        other = timing_at(base, place(timing))
        if other is not None:
            found.append(Pair(place(timing), other.total_ms, timing.total_ms))
    there = [one for one in found if one.where.profile == profile]
    return tuple(sorted(there or found, key=lambda one: one.where))


@dataclass(frozen=True)
class Verdict:
    """What one board should run, and against what that was compared."""

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
        """How many times smaller the file is; 0 where a size is not known."""
        if self.chosen is None or self.base is None or not self.chosen.bytes:
            return 0.0
        return self.base.bytes / self.chosen.bytes

    @property
    def same_size(self) -> bool:
        """Whether the file is as large as float's, but for what a number of two digits shows."""
        return 0.95 < self.shrinks < 1.05


def verdict(study: Study, target: TargetResult) -> Verdict:
    """Return what was chosen for a board, next to the float form."""
    chosen = find(study, target.chosen) if target.chosen else None
    if chosen is None:
        return Verdict(target, None, None, ())
    base = float_of(study, chosen)
    both = pairs(chosen, base, target.profile) if base is not None and base is not chosen else ()
    return Verdict(target, chosen, base, both)


def sentence(study: Study, found: Verdict) -> str:
    """Return the verdict for one board in one sentence."""
    target, chosen = found.target, found.chosen
    if chosen is None:
        return f"{target.title}: no variant was chosen: {_ended(target.why or 'the study gives no reason')}"
    if found.is_float:
        says = f"{target.title} runs {chosen.plan.id}, the float form itself"
        return f"{says}: {_ended(target.why or 'nothing within the gate beats it')}"
    parts = [_speed_words(found), _size_words(found), loss_words(chosen.score, study.metric)]
    body = ", ".join(part for part in parts if part)
    return f"{target.title} runs {chosen.plan.id}: {body}; {basis_words(target)}."


def _ended(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def basis_words(target: TargetResult) -> str:
    """Return what the choice rests on, as the end of a sentence."""
    return f"basis: {target.basis or 'not stated'}"


def _speed_words(found: Verdict) -> str:
    if found.base is None:
        return "no float form to compare with"
    name = base_words(found)
    if not found.pairs:
        return f"speed against {name} not measured"
    first, *others = found.pairs[:MAX_PAIRS]
    said = [f"{no.times(first.gain)} times as fast as {name} ({_pair_words(first, found.target.profile)})"]
    said += [f"{no.times(one.gain)} times ({_pair_words(one, found.target.profile)})" for one in others]
    return " and ".join(said)


def _pair_words(pair: Pair, board: str) -> str:
    """Return both times and where; the machine is named where it is not the board."""
    where = no.count(pair.where.threads, "thread")
    if pair.where.profile != board:
        where += f" of {pair.where.profile}"
    return f"{no.significant(pair.ms)} against {no.milliseconds(pair.float_ms)}, {where}"


def base_words(found: Verdict) -> str:
    """Return what the chosen variant is compared with, for people."""
    if found.base is None or found.chosen is None:
        return "nothing"
    name = BACKEND_NAMES.get(found.base.plan.backend, found.base.plan.backend)
    name += "" if found.base.plan.accelerator == found.chosen.plan.accelerator else " on the CPU"
    if found.base.plan.backend == found.chosen.plan.backend:
        return f"float on {name}"
    return f"the reference {found.base.plan.id} (there is no float form on the same backend)"


def _size_words(found: Verdict) -> str:
    if not found.shrinks or found.base is None or found.chosen is None:
        return "size not known"
    sizes = f"{no.size(found.chosen.bytes)} against {no.size(found.base.bytes)}"
    if found.same_size:
        return f"about the same size ({sizes})"
    if found.shrinks < 1:
        return f"{no.times(1 / found.shrinks)} times larger ({sizes})"
    return f"{no.times(found.shrinks)} times smaller ({sizes})"


def loss_words(score: Score | None, metric: str) -> str:
    """Return what accuracy was lost or gained, with its interval."""
    if score is None:
        return "accuracy not measured"
    way = "gained" if no.points(score.drop).startswith(no.MINUS) else "lost"
    says = f"{no.points(abs(score.drop))} points of {metric} {way}"
    return f"{says} (95 % interval of the loss: {interval(score)})"


def interval(score: Score) -> str:
    """Return the interval of a drop, in points."""
    return f"{no.points(score.low)} to {no.points(score.high)}"


def interval_gained(score: Score) -> str:
    """Return the interval of what was gained, in points."""
    return f"{no.points(-score.high)} to {no.points(-score.low)}"


def reference_value(study: Study) -> float | None:
    """Return the metric of the float model, or None where nothing was scored."""
    held = find(study, study.reference)
    if held is not None and held.score is not None:
        return held.score.value
    tally = Counter(one.score.reference for one in study.candidates if one.score is not None)
    return tally.most_common(1)[0][0] if tally else None


def front(at: dict[int, tuple[float, float]]) -> list[int]:
    """Return the keys that nothing beats in both: less of the first number, more of the second.

    >>> front({0: (1.0, 0.7), 1: (2.0, 0.9), 2: (3.0, 0.8), 3: (2.0, 0.6)})
    [0, 1]
    """
    kept: list[int] = []
    for key in sorted(at, key=lambda one: (at[one][0], -at[one][1])):
        if not kept or at[key][1] > at[kept[-1]][1]:
            kept.append(key)
    return kept


def cautions(study: Study) -> tuple[str, ...]:
    """Return what a reader must know before any figure: the study's warnings, and what it implies."""
    found = [*study.warnings]
    found += [
        f"The conversion {one.conversion} by {one.tool} does not keep the model's meaning: outputs differ by "
        f"{no.significant(one.max_abs)} where they run to {no.significant(one.scale)}."
        for one in study.checks
        if not one.holds
    ]
    found += [
        f"{one.plan.id} is in the bundle although it failed the gate: {one.verdict or one.error}"
        for one in study.candidates
        if one.kept and one.gate == "fail"
    ]
    return (*found, *_uncertain(study), *_noise(study))


def _uncertain(study: Study) -> list[str]:
    """Say where a chosen variant passes on the estimate, and the interval reaches beyond the gate."""
    chosen = {target.chosen for target in study.targets}
    return [
        f"{one.plan.id} passes the gate on the estimate, but its interval reaches "
        f"{no.points(one.score.high)} points, beyond the {no.points(study.max_drop)} allowed: "
        f"{no.count(one.score.samples, 'sample')} cannot rule that out; more would."
        for one in study.candidates
        if one.plan.id in chosen
        and one.score is not None
        and one.gate == "pass"
        and study.max_drop < one.score.high
    ]


def _noise(study: Study) -> list[str]:
    noisy = [one for one in study.candidates if any(timing.noise > _NOISY for timing in one.timings)]
    if not noisy:
        return []
    worst = max(timing.noise for one in noisy for timing in one.timings)
    said = f"Times were noisy: for {no.count(len(noisy), 'candidate')} the rounds differ by up to "
    return [f"{said}{no.percent(worst, 0)}. Read ratios, not milliseconds, or measure on a quiet machine."]


def tools(study: Study) -> tuple[tuple[str, str], ...]:
    """Return every tool and version that took part, sorted; a tool of two versions is there twice."""
    found = {("edgekit", study.edgekit), *study.versions.items()}
    for one in study.candidates:
        found.update(one.tools.items())
    return tuple(sorted(found))
