"""Whether a new version behaves worse than the one before: a test that is valid at any sample size.

Both guards ask the same question about a stream of frames: is the share of bad frames above a limit?
For errors, a failed frame is bad. For latency, a frame is bad if it is slower than ``p99_ratio`` times
the old version's 99th percentile on the same device, and by definition 1 % may exceed that percentile.

The answer is an *e-value*. It may be evaluated after every frame, any number of times, from the first
frame on: if the share is within the limit, the chance that the e-value *ever* exceeds ``1 / alpha`` is
at most alpha. (A p-value evaluated once a second exceeds any threshold in the end.) Several devices are
judged at ``alpha / devices`` each, and all of them together.

Source: Ville's inequality; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", 2021: the mixture likelihood ratio of a Bernoulli stream.
The test assumes independent frames, but frames of one moment are correlated. A breach therefore needs bad
frames in at least two reports, so that a single hiccup of a machine halts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgekit.core.sketch import Histogram
from edgekit.core.spec import Guards

ALPHA = 0.001
"""Upper bound of the chance that a guard halts a version as good as the one before."""
MIN_BASELINE_FRAMES = 30
MIN_FRAMES = 30
MIN_REPORTS = 2
SLOW_SHARE = 0.01
"""The share of frames above a 99th percentile."""


@dataclass(frozen=True)
class Baseline:
    """Measurements of the version before on one device.

    Args:
        frames: Frames tried.
        errors: Frames that failed.
        p99_ms: The upper 95 % confidence bound of the 99th percentile of inference time; 0 where
            there are too few frames to say.
    """

    frames: int = 0
    errors: int = 0
    p99_ms: float = 0.0


@dataclass(frozen=True)
class Tally:
    """Measurements of the new version on one device so far.

    Args:
        frames: Frames tried.
        errors: Frames that failed.
        error_reports: Reports with failed frames.
        timed: Frames whose inference time is known.
        slow: Of these, those slower than the guard allows.
        slow_reports: Reports with more slow frames than the limit's share.
    """

    frames: int = 0
    errors: int = 0
    error_reports: int = 0
    timed: int = 0
    slow: int = 0
    slow_reports: int = 0


def baseline(frames: int, errors: int, infer_ms: Histogram) -> Baseline:
    """Return the baseline of one device from the old version's reports."""
    count = infer_ms.count
    p99_ms = 0.0
    if count >= MIN_BASELINE_FRAMES:
        rank = 0.99 + 1.645 * math.sqrt(0.99 * 0.01 / count)  # the order statistic that bounds it
        p99_ms = infer_ms.quantile(min(rank, 1.0))
    return Baseline(max(frames, errors), errors, p99_ms)


def add(tally: Tally, frames: int, errors: int, infer_ms: Histogram | None, limit_ms: float) -> Tally:
    """Return the tally after one more report; inferences above ``limit_ms`` are slow (0: none)."""
    total = replace(
        tally,
        frames=tally.frames + max(frames, errors),
        errors=tally.errors + errors,
        error_reports=tally.error_reports + (errors > 0),
    )
    if infer_ms is None or limit_ms <= 0:
        return total
    timed, slow = infer_ms.count, infer_ms.count_above(limit_ms)
    return replace(
        total,
        timed=total.timed + timed,
        slow=total.slow + slow,
        slow_reports=total.slow_reports + (slow > SLOW_SHARE * timed),
    )


def breach(guards: Guards, before: Mapping[str, Baseline], after: Mapping[str, Tally]) -> str | None:
    """Return which guard the new version breaches, as a sentence; None if it breaches none.

    Args:
        guards: ``error_ratio`` and ``p99_ratio``; 0 switches a guard off.
        before: The old version, by device; may lack some.
        after: The new version, by device.
    """
    seen = {device: tally for device, tally in after.items() if tally.frames}
    if not seen:
        return None
    evidence = len(seen) / ALPHA
    groups = [(f"on {device}", [device], evidence) for device in sorted(seen)]
    if len(seen) > 1:
        groups.append((f"on {len(seen)} devices together", sorted(seen), evidence))
    for where, devices, evidence_needed in groups:
        total = summed(seen[device] for device in devices)
        if guards.error_ratio > 0:
            known = [before[device] for device in devices if device in before]
            limit = max(guards.error_ratio, _old_ratio(known))
            if _is_proved(total.errors, total.frames, total.error_reports, limit, evidence_needed):
                return f"{total.errors} of {total.frames} frames failed {where}; {limit:.2%} may"
        if guards.p99_ratio > 0 and _is_proved(
            total.slow, total.timed, total.slow_reports, SLOW_SHARE, evidence_needed
        ):
            return (
                f"{total.slow} of {total.timed} inferences {where} took more than {guards.p99_ratio:g} times"
                f" the version before's p99; {SLOW_SHARE:.0%} may"
            )
    return None


def summed(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of several devices' tallies."""
    total = Tally()
    for tally in tallies:
        total = Tally(
            total.frames + tally.frames,
            total.errors + tally.errors,
            total.error_reports + tally.error_reports,
            total.timed + tally.timed,
            total.slow + tally.slow,
            total.slow_reports + tally.slow_reports,
        )
    return total


def _old_ratio(known: list[Baseline]) -> float:
    frames = sum(baseline.frames for baseline in known)
    return sum(baseline.errors for baseline in known) / frames if frames >= MIN_BASELINE_FRAMES else 0.0


def _is_proved(bad: int, count: int, reports: int, limit: float, evidence_needed: float) -> bool:
    return (
        count >= MIN_FRAMES
        and reports >= MIN_REPORTS
        and limit < 1
        and log_e_value(bad, count, limit) >= math.log(evidence_needed)
    )


def log_e_value(bad: int, count: int, limit: float) -> float:
    """Return the logarithm of the evidence that the share of bad frames is above a limit.

    The likelihood of the frames, averaged over every share above the limit, to that at the limit.

    >>> log_e_value(0, 1000, 0.01) < 0 < log_e_value(30, 1000, 0.01)
    True

    Args:
        bad: The number of bad frames.
        count: The number of frames, at least ``bad``.
        limit: The share allowed, more than 0 and less than 1.

    Returns:
        Minus infinity if the observed share is within the limit.
    """
    if bad <= limit * count:
        return -math.inf
    average = (
        math.lgamma(bad + 1)
        + math.lgamma(count - bad + 1)
        - math.lgamma(count + 2)
        + math.log(_below(bad, count + 1, limit))
        - math.log1p(-limit)
    )
    return average - bad * math.log(limit) - (count - bad) * math.log1p(-limit)


def _below(most: int, count: int, share: float) -> float:
    """Return the chance of at most ``most`` successes in ``count`` tries; ``most`` is above the mean."""
    successes = most + 1
    if successes > count:
        return 1.0
    term = math.exp(
        math.lgamma(count + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(count - successes + 1)
        + successes * math.log(share)
        + (count - successes) * math.log1p(-share)
    )
    above = 0.0
    while term > above * 1e-15 and term > 0:
        above += term
        term *= (count - successes) / (successes + 1) * share / (1 - share)
        successes += 1
    return max(1.0 - above, 1e-12)
