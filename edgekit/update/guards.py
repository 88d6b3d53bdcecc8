"""Decides whether a trial continues, commits or rolls back, from its measurements.

``judge`` rolls back early only on strong evidence, commits after the soak time when no rule is broken, and
otherwise continues, for up to four soak times.

A ratio of failures is judged by its Wilson score interval, which holds at small samples, at zero failures
and at all failures. So is a bound on the 99th percentile, without assuming a distribution: at most one
frame in a hundred may be slower. Two rates are compared by the conditional binomial test: the new
version's share of the predictions of both.

Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, J. Amer.
Statist. Assoc. 22 (1927). W. J. Conover, Practical Nonparametric Statistics, quantile test.
J. Przyborowski, H. Wilenski, Homogeneity of results in testing samples from Poisson series,
Biometrika 31 (1940).
"""

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from edgekit.core.sketch import Histogram, Sketch
from edgekit.core.spec import Guards

EARLY_Z = 3.5
"""Standard errors for an early rollback: one check in 4000 is wrong, as there are many checks."""
FINAL_Z = 1.96
"""At the end of the soak, which is one check."""
EARLY_FRAMES = 10
MAX_SOAKS = 4
_DEPENDENCE = 5
"""Successive predictions of one scene are not independent; five of them count as one (Kish's design
effect, chosen for a few frames a second)."""
_SLOW_SHARE = 0.01


Action: TypeAlias = Literal["continue", "commit", "roll_back"]


class TrialStats(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one version; ``errors``: failed frames; ``infer_ms``: the others' inference times.

    ``steady_ms`` leaves out the slowest interval: a hiccup of the machine is no evidence.
    """

    frames: int = 0
    errors: int = 0
    crashes: int = 0
    predictions: int = 0
    infer_ms: Sketch | None = None
    steady_ms: Sketch | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The decision, its reason, and the numbers for ``UpdateRecord.measured``."""

    action: Action
    reason: str
    measured: dict[str, float] = {}


class _Finding(msgspec.Struct, frozen=True):
    """One rule: whether the plain numbers break it, and whether beyond doubt."""

    is_broken: bool
    is_certain: bool
    reason: str


def judge(
    observed: TrialStats, baseline: TrialStats | None, guards: Guards, elapsed_s: float, soak_s: float
) -> Verdict:
    """Return the verdict on a trial of ``elapsed_s`` so far, which must last at least ``soak_s``.

    ``baseline``: the version before, on this device; where it is None, rules against it are not judged, and
    the reason says so.
    """
    action, reason = _decide(observed, baseline, guards, elapsed_s, soak_s)
    return Verdict(action=action, reason=reason, measured=_measure(observed, baseline, elapsed_s))


def _decide(
    observed: TrialStats, baseline: TrialStats | None, guards: Guards, elapsed_s: float, soak_s: float
) -> tuple[Action, str]:
    if observed.crashes:
        return "roll_back", f"its worker crashed {observed.crashes} times"
    findings = list(_findings(observed, baseline, guards, elapsed_s))
    certain = [f.reason for f in findings if f.is_certain]
    if certain and observed.frames >= EARLY_FRAMES:
        return "roll_back", "; ".join(certain)
    if elapsed_s < soak_s:
        return "continue", f"{elapsed_s:.0f} of {soak_s:.0f} s"
    broken = [f.reason for f in findings if f.is_broken]
    if observed.frames < guards.min_frames:
        broken.append(f"only {observed.frames} frames, at least {guards.min_frames} are required")
    if not broken:
        return "commit", _kept(guards, baseline)
    is_over = elapsed_s >= MAX_SOAKS * soak_s
    return "roll_back" if is_over else "continue", "; ".join(broken)


def tighter(guards: Guards, other: Guards | None) -> Guards:
    """Return the stricter of each rule; 0 is no rule.

    >>> tighter(Guards(p99_ms=80), Guards(p99_ms=50, error_ratio=0.1)).p99_ms
    50.0
    """
    if other is None:
        return guards
    strict = {
        name: min(
            (value for value in (getattr(guards, name), getattr(other, name)) if value > 0), default=0.0
        )
        for name in ("p99_ms", "p99_ratio", "error_ratio", "event_ratio")
    }
    return Guards(**strict, min_frames=max(guards.min_frames, other.min_frames))


def wilson(hits: float, trials: float, z: float) -> tuple[float, float]:
    """Return the bounds of a ratio, ``z`` standard errors wide on each side.

    >>> low, high = wilson(0, 30, 1.96)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.114)
    """
    if trials <= 0:
        return 0.0, 1.0
    ratio = hits / trials
    scale = 1 + z * z / trials
    centre = (ratio + z * z / (2 * trials)) / scale
    half = z * math.sqrt(ratio * (1 - ratio) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def _findings(
    observed: TrialStats, baseline: TrialStats | None, guards: Guards, elapsed_s: float
) -> Iterator[_Finding]:
    if guards.error_ratio > 0 and observed.frames:
        low, _ = wilson(observed.errors, observed.frames, EARLY_Z)
        ratio = observed.errors / observed.frames
        yield _Finding(
            ratio > guards.error_ratio,
            low > guards.error_ratio,
            f"error_ratio {ratio:.3f} ({observed.errors} of {observed.frames} frames),"
            f" at most {guards.error_ratio:g}",
        )
    if observed.steady_ms is not None:
        times = Histogram.from_wire(observed.steady_ms)
        if guards.p99_ms > 0:
            yield _slow(times, guards.p99_ms, guards.p99_ms, "p99_ms")
        if guards.p99_ratio > 0 and baseline is not None and baseline.infer_ms is not None:
            before = Histogram.from_wire(baseline.infer_ms)
            period_ms = 1000 * elapsed_s / observed.frames if observed.frames else 0.0
            limit = guards.slow_ms(before.quantile(0.99), period_ms)
            sure = guards.slow_ms(before.quantile(_upper_rank(before.count)), period_ms)
            yield _slow(times, limit, sure, f"p99_ratio {guards.p99_ratio:g}: p99_ms")
    elif observed.infer_ms is not None and (guards.p99_ms > 0 or guards.p99_ratio > 0):
        yield _Finding(True, False, "inference times of one interval only")
    if guards.event_ratio > 0 and baseline is not None and baseline.frames and observed.frames:
        yield _rate(observed, baseline, guards.event_ratio)


def _slow(times: Histogram, limit_ms: float, sure_limit_ms: float, rule: str) -> _Finding:
    """Judge "p99 at most limit"; beyond doubt only above ``sure_limit_ms``, which is not below it."""
    low, _ = wilson(times.count_above(sure_limit_ms), times.count, EARLY_Z)
    p99_ms = times.quantile(0.99)
    return _Finding(p99_ms > limit_ms, low > _SLOW_SHARE, f"{rule} {p99_ms:.1f}, at most {limit_ms:.1f}")


def _upper_rank(count: int) -> float:
    """Return the quantile that is certainly not below the true 99th percentile."""
    return min(1.0, 0.99 + EARLY_Z * math.sqrt(0.99 * 0.01 / count)) if count else 1.0


def _rate(observed: TrialStats, baseline: TrialStats, factor: float) -> _Finding:
    new, old = observed.predictions / _DEPENDENCE, baseline.predictions / _DEPENDENCE
    risen = factor * observed.frames / (factor * observed.frames + baseline.frames)
    fallen = observed.frames / (observed.frames + factor * baseline.frames)

    def is_beyond(z: float) -> bool:
        low, high = wilson(new, new + old, z)
        return new + old > 0 and (low > risen or high < fallen)

    ratio = _ratio(observed, baseline)
    what = f"event_ratio {ratio:.2f}, between {1 / factor:.2f} and {factor:g}"
    # A quiet scene has too few predictions for certainty, so doubt does not stop a commit.
    return _Finding(is_beyond(FINAL_Z), is_beyond(EARLY_Z), what)


def _ratio(observed: TrialStats, baseline: TrialStats) -> float:
    """Return the ratio of predictions per frame, new to old; one is added to each count."""
    new = (observed.predictions + 1) / max(1, observed.frames)
    old = (baseline.predictions + 1) / max(1, baseline.frames)
    return new / old


def _measure(observed: TrialStats, baseline: TrialStats | None, elapsed_s: float) -> dict[str, float]:
    measured = {
        "frames": float(observed.frames),
        "errors": float(observed.errors),
        "crashes": float(observed.crashes),
        "error_ratio": observed.errors / observed.frames if observed.frames else 0.0,
        "elapsed_s": round(elapsed_s, 1),
    }
    if observed.infer_ms is not None:
        measured["p99_ms"] = Histogram.from_wire(observed.infer_ms).quantile(0.99)
    if baseline is not None:
        if baseline.infer_ms is not None:
            measured["p99_before_ms"] = Histogram.from_wire(baseline.infer_ms).quantile(0.99)
        if baseline.frames and observed.frames:
            measured["event_ratio"] = _ratio(observed, baseline)
    return {name: round(value, 4) for name, value in measured.items()}


def _kept(guards: Guards, baseline: TrialStats | None) -> str:
    if baseline is None and (guards.p99_ratio > 0 or guards.event_ratio > 0):
        return "every guard kept; those against the version before not judged: there is none"
    return "every guard kept"
