"""Choose each board's variant, with reasons: gates, budgets, the Pareto front, the ranking.

Pure functions over measurements. Each choice states its basis, since a time measured on another
machine is not a time on the board.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from edgekit.core.spec import Profile
from edgekit_optimize.plan import Plan
from edgekit_optimize.run.rules import allowed
from edgekit_optimize.study import CandidateResult, Score, TargetResult, Timing

NOISE = 0.02
"""Times closer than this share count as equal: medians of the same file differ by as much."""

ON_BOARD = "measured on this board"
ON_MACHINE = "measured on this machine, which is not the board"
BY_ORDER = "order of the profile"
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


def gate(score: Score | None, max_drop: float) -> tuple[Literal["pass", "fail", ""], str]:
    """Return whether a candidate keeps enough of the float model's quality, and why, in one sentence.

    The measured drop decides, not its confidence interval: the worst end would fail an identical model
    on a small evaluation set. The sentence has both.

    Args:
        score: The measurement; None if there is none.
        max_drop: The largest drop allowed, as a share: 0.01 is one point of a percentage.
    """
    if score is None:
        return "", "its quality was not measured"
    sentence = f"{score.metric} {score.value:.4f}, the float model {score.reference:.4f}"
    if not math.isfinite(score.drop):
        return "fail", f"{sentence}: not a number"
    sentence += (
        f": lost {score.drop:.4f} (95 %: {score.low:.4f} to {score.high:.4f}) on {score.samples} samples"
    )
    if score.drop <= max_drop + 1e-9:  # 0.88 - 0.87 is a little more than 0.01
        return "pass", f"{sentence}, {max_drop:g} may be lost"
    return "fail", f"{sentence}, only {max_drop:g} may be lost"


def front(candidates: Sequence[CandidateResult]) -> frozenset[str]:
    """Return the ids of the candidates on the Pareto front of accuracy, time, bytes and memory.

    Candidates need a score and a time; times are compared on the one machine and thread count that
    most candidates have.
    """
    scored = [c for c in candidates if c.score is not None and math.isfinite(c.score.value) and not c.error]
    profiles = Counter(t.profile for c in scored for t in _each_profile_once(c))
    if not profiles:
        return frozenset()
    profile = max(profiles, key=lambda name: profiles[name])  # the first of several
    times = _times(scored, profile, 0)
    costs = {
        c.plan.id: (-_value(c), times[c.plan.id].total_ms, c.bytes, times[c.plan.id].rss_mb)
        for c in scored
        if c.plan.id in times
    }
    return frozenset(
        name for name, cost in costs.items() if not any(_dominates(o, cost) for o in costs.values())
    )


def choose(
    candidates: Sequence[CandidateResult],
    profile: Profile,
    *,
    here: str,
    max_drop: float,
    budget_ms: float = 0.0,
    budget_mb: float = 0.0,
    arch: str = "",
    threads: int = 0,
) -> TargetResult:
    """Choose the variant for a board.

    Among the candidates that the board can run and that pass the gate and the budgets: the fastest as
    measured on this kind of board. Without such measurements, first candidates for an accelerator of
    the board, in its profile's order; then the fastest on this machine, if it has the board's
    architecture; else int8 before the rest, in the profile's order. Times within 2 % count as equal:
    then the more accurate wins, then the smaller.

    Args:
        candidates: All candidates of the run.
        profile: The board.
        here: The profile of this machine.
        max_drop: The largest drop of the metric allowed.
        budget_ms: The longest total time of an inference, compared with times measured on this kind
            of board; 0 for none.
        budget_mb: The largest size of the files in megabytes (10^6 bytes); 0 for none.
        arch: This machine's architecture as in ``uname -m``; empty to detect it.
        threads: Compare times with this many threads; 0 for the number that most candidates have.

    Returns:
        The choice; ``chosen`` is empty if nothing fits, ``rejected`` has each rejected candidate's
        reasons, and ``order`` the candidates that fit, the chosen one first.
    """
    case = _Case(
        candidates=tuple(candidates),
        profile=profile,
        here=here,
        arch=arch or _ARCHES.get(platform.machine().lower(), platform.machine()),
        threads=threads,
    )
    rejected = {c.plan.id: _reasons(c, profile, max_drop, budget_mb) for c in candidates}
    fitting = [c for c in candidates if not rejected[c.plan.id]]
    absent = case.absent(fitting)
    rejected |= absent
    fitting = [c for c in fitting if c.plan.id not in absent]
    on_board = case.times(fitting, profile.id)
    if budget_ms:
        rejected |= _over_budget(on_board, budget_ms)
        fitting = [c for c in fitting if not rejected[c.plan.id]]
    losers = _losers(fitting, on_board or case.times(fitting, here), profile.id if on_board else here)
    rejected |= losers
    fitting = [c for c in fitting if c.plan.id not in losers]
    basis, ranked, note = _rank(fitting, case)
    if basis == ON_BOARD:
        rejected |= {c.plan.id: ("not measured on this board",) for c in fitting if c.plan.id not in on_board}
    elif budget_ms and ranked:
        note += f"; the budget of {budget_ms:g} ms is not checked, as nothing was measured on this board"
    return TargetResult(
        profile=profile.id,
        title=profile.title,
        chosen=ranked[0].plan.id if ranked else "",
        basis=basis if ranked else "",
        why=_sentence(ranked, note) if ranked else _nothing(rejected),
        order=tuple(c.plan.id for c in ranked),
        rejected={name: reasons for name, reasons in rejected.items() if reasons},
    )


def keep(
    candidates: Sequence[CandidateResult], targets: Sequence[TargetResult], *, keep_all: bool
) -> frozenset[str]:
    """Return the ids of the candidates that go into the bundle.

    For each target the chosen one, and the best for each other backend and accelerator that the target
    can run, so that a device without the first can use another. ``keep_all`` keeps all that could be
    made; those that fail the gate are marked by their ``gate``.
    """
    if keep_all:
        return frozenset(c.plan.id for c in candidates if not c.error)
    plans = {c.plan.id: c.plan for c in candidates}
    kept: set[str] = set()
    for target in targets:
        seen: set[tuple[str, str]] = set()
        for name in target.order:
            runtime = (plans[name].backend, plans[name].accelerator)
            if runtime not in seen:
                seen.add(runtime)
                kept.add(name)
    return frozenset(kept)


# ---------------------------------------------------------------------------------------------
# Reasons against a candidate


def _reasons(
    candidate: CandidateResult, profile: Profile, max_drop: float, budget_mb: float
) -> tuple[str, ...]:
    if reason := allowed(candidate.plan, profile):
        return (reason,)
    if candidate.error:
        return (candidate.error,)
    outcome, verdict = gate(candidate.score, max_drop)
    reasons = [] if outcome == "pass" else [verdict]
    megabytes = candidate.bytes / 1e6
    if budget_mb and megabytes > budget_mb:
        reasons.append(f"{megabytes:.2f} MB, the budget is {budget_mb:g} MB")
    return tuple(reasons)


def _over_budget(times: dict[str, Timing], budget_ms: float) -> dict[str, tuple[str, ...]]:
    return {
        name: (f"{timing.total_ms:.2f} ms on this board, the budget is {budget_ms:g} ms",)
        for name, timing in times.items()
        if timing.total_ms > budget_ms
    }


def _losers(
    fitting: Sequence[CandidateResult], times: dict[str, Timing], where: str
) -> dict[str, tuple[str, ...]]:
    """Return the compressed candidates that are slower than their float form, with both times.

    Only if that float form fits too: one over the budget is no alternative.
    """
    timed = [c for c in fitting if c.plan.id in times]
    floats = {_place(c.plan): c.plan.id for c in reversed(timed) if c.plan.precision == "fp32"}
    losers: dict[str, tuple[str, ...]] = {}
    for candidate in timed:
        name, own = candidate.plan.id, floats.get(_place(candidate.plan))
        if own is None or candidate.plan.precision == "fp32":
            continue
        slow, fast = times[name].total_ms, times[own].total_ms
        if slow > fast * (1 + NOISE):
            losers[name] = (f"{slow:.2f} ms, slower than its own float form {own}: {fast:.2f} ms ({where})",)
    return losers


# ---------------------------------------------------------------------------------------------
# Ranking


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """One board in one study."""

    candidates: tuple[CandidateResult, ...]
    profile: Profile
    here: str
    arch: str
    threads: int

    def times(self, fitting: Sequence[CandidateResult], profile: str) -> dict[str, Timing]:
        """Return the times to compare, measured on one kind of machine."""
        return _times(fitting, profile, self.threads)

    def has(self, plan: Plan) -> bool:
        """Whether the board certainly has a plan's accelerator (rather than possibly)."""
        return plan.accelerator in {fact.kind for fact in self.profile.accelerator}

    def absent(self, fitting: Sequence[CandidateResult]) -> dict[str, tuple[str, ...]]:
        """Return the candidates for an accelerator that only some boards of this profile have.

        For most boards their files would only make the bundle larger. If nothing else fits, none is rejected.
        """
        rejected: dict[str, tuple[str, ...]] = {}
        for plan in (c.plan for c in fitting):
            if plan.accelerator != "cpu" and not self.has(plan):
                reason = f"boards of profile '{self.profile.id}' may have the accelerator {plan.accelerator}"
                rejected[plan.id] = (
                    f"{reason}, not all do: name the profile of one that has it, or keep all",
                )
        return rejected if len(rejected) < len(fitting) else {}

    def position(self, plan: Plan) -> tuple[int, int]:
        """Return a plan's position in the profile's order of backends, then of precisions."""
        for number, row in enumerate(self.profile.backend):
            if (row.name, row.accelerator) == (plan.backend, plan.accelerator):
                if plan.precision in row.precisions:
                    return number, row.precisions.index(plan.precision)
                if not row.precisions:
                    return number, 0
        return len(self.profile.backend), 0


def _rank(fitting: Sequence[CandidateResult], case: _Case) -> tuple[str, list[CandidateResult], str]:
    """Return the basis of the ranking, the candidates best first, and a note on the first."""
    cpu = [c for c in fitting if c.plan.accelerator == "cpu"]
    own = [c for c in fitting if c.plan.accelerator != "cpu" and case.has(c.plan)]
    other = [c for c in fitting if c.plan.accelerator != "cpu" and not case.has(c.plan)]
    on_board, on_machine = case.times(fitting, case.profile.id), case.times(cpu, case.here)
    if on_board:
        measured = [c for c in fitting if c.plan.id in on_board]
        rest = [c for c in (*own, *cpu, *other) if c.plan.id not in on_board]
        ranked = _fastest_first(measured, on_board)
        return ON_BOARD, [*ranked, *_ordered(rest, case, {})], _compared(ranked, on_board)
    is_like = not case.profile.match.arch or case.arch in case.profile.match.arch
    if own or not (is_like and on_machine):
        ranked = [*_ordered(own, case, {}), *_ordered(cpu, case, on_machine), *_ordered(other, case, {})]
        return BY_ORDER, ranked, _ordered_note(ranked, own, case, on_machine)
    measured = [c for c in cpu if c.plan.id in on_machine]
    rest = [c for c in cpu if c.plan.id not in on_machine]
    ranked = _fastest_first(measured, on_machine)
    note = f"{_compared(ranked, on_machine)}, measured on '{case.here}', which has the same architecture"
    return ON_MACHINE, [*ranked, *_ordered([*rest, *other], case, {})], note


def _fastest_first(fitting: Sequence[CandidateResult], times: dict[str, Timing]) -> list[CandidateResult]:
    """Sort by time, but put the most accurate of those within 2 % of the fastest first."""
    by_time = sorted(fitting, key=lambda c: (times[c.plan.id].total_ms, _taste(c, times)))
    if not by_time:
        return []
    limit = times[by_time[0].plan.id].total_ms * (1 + NOISE)
    best = min((c for c in by_time if times[c.plan.id].total_ms <= limit), key=lambda c: _taste(c, times))
    return [best, *(c for c in by_time if c is not best)]


def _taste(candidate: CandidateResult, times: dict[str, Timing]) -> tuple[float, ...]:
    timing = times.get(candidate.plan.id)
    cost = (timing.total_ms, timing.rss_mb) if timing else (math.inf, math.inf)
    return (-_value(candidate), candidate.bytes, *cost)


def _ordered(
    fitting: Sequence[CandidateResult], case: _Case, times: dict[str, Timing]
) -> list[CandidateResult]:
    """Sort by the profile's order; times measured elsewhere only decide within a backend and precision.

    Accelerators keep the order of backends; on the CPU int8 comes before the rest.
    """

    def key(candidate: CandidateResult) -> tuple[int, int, int]:
        is_last = candidate.plan.accelerator == "cpu" and candidate.plan.precision != "int8"
        return (int(is_last), *case.position(candidate.plan))

    ranked: list[CandidateResult] = []
    for group in sorted({key(c) for c in fitting}):
        members = [c for c in fitting if key(c) == group]
        timed = _fastest_first([c for c in members if c.plan.id in times], times)
        ranked += timed + sorted((c for c in members if c not in timed), key=lambda c: _taste(c, {}))
    return ranked


def _times(candidates: Sequence[CandidateResult], profile: str, threads: int) -> dict[str, Timing]:
    """Return the time of each candidate that was measured on a machine with one thread count."""
    rows = {
        c.plan.id: [t for t in c.timings if t.profile == profile and math.isfinite(t.total_ms)]
        for c in candidates
        if not c.error
    }
    counts = Counter(number for row in rows.values() for number in {t.threads: 0 for t in row})
    if not counts:
        return {}
    thread_count = threads or max(counts, key=lambda number: counts[number])  # the first of several
    # if a board was measured more than once, the last measurement counts
    return {name: t for name, row in rows.items() for t in row if t.threads == thread_count}


def _each_profile_once(candidate: CandidateResult) -> list[Timing]:
    return list({t.profile: t for t in candidate.timings if math.isfinite(t.total_ms)}.values())


def _value(candidate: CandidateResult) -> float:
    return candidate.score.value if candidate.score is not None else 0.0


def _place(plan: Plan) -> tuple[str, str, str]:
    return plan.backend, plan.accelerator, plan.root


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


# ---------------------------------------------------------------------------------------------
# Sentences


def _compared(ranked: Sequence[CandidateResult], times: dict[str, Timing]) -> str:
    if not ranked:
        return ""
    first, best = ranked[0], times[ranked[0].plan.id]
    quickest = min(ranked, key=lambda c: times[c.plan.id].total_ms)
    text = f"{best.total_ms:.2f} ms"
    if quickest is not first:
        text += (
            f", within {NOISE:.0%} of the fastest ({quickest.plan.id}, "
            f"{times[quickest.plan.id].total_ms:.2f} ms) and more accurate or smaller"
        )
    elif len(ranked) > 1:
        text += f", the fastest; next {ranked[1].plan.id} with {times[ranked[1].plan.id].total_ms:.2f} ms"
    else:
        text += ", the only one that fits"
    return text


def _ordered_note(
    ranked: Sequence[CandidateResult],
    own: Sequence[CandidateResult],
    case: _Case,
    times: dict[str, Timing],
) -> str:
    if not ranked:
        return ""
    plan = ranked[0].plan
    if own:
        return (
            f"for the {plan.accelerator} that the board has, by the order of its profile; not measured on it"
        )
    text = "first by the order of the board's profile, int8 before float; not measured on such a board"
    if plan.id in times:
        text += f" ({times[plan.id].total_ms:.2f} ms on '{case.here}')"
    return text


def _sentence(ranked: Sequence[CandidateResult], note: str) -> str:
    first = ranked[0]
    if first.score is None:
        return f"{first.plan.id}: {note}"
    kept = f"{first.score.metric} {first.score.value:.4f} of {first.score.reference:.4f}"
    return f"{first.plan.id}: {note}; {kept}, {first.bytes / 1e6:.2f} MB"


def _nothing(rejected: dict[str, tuple[str, ...]]) -> str:
    if not rejected:
        return "no candidate was made"
    return "no candidate fits: " + "; ".join(f"{name}: {reasons[0]}" for name, reasons in rejected.items())
