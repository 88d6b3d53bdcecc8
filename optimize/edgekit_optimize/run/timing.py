"""Times candidates against one another, each in a process of its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from edgekit.bench.paired_timing import Rounds, quiet, take_turns
from edgekit.bench.variant_process import LabProcess
from edgekit.core.errors import BackendError
from edgekit.core.spec import Profile, Variant
from edgekit.model.bundle import Bundle
from edgekit_optimize.study import Timing


def time_variants(
    bundle: Bundle,
    variants: Sequence[Variant],
    profile: Profile,
    threads: int,
    seconds: float,
    done: Callable[[str], None],
) -> dict[str, Timing | str]:
    """Run each variant in a process of its own, a round at a time, each in its turn.

    Args:
        bundle: Where the files lie.
        variants: Those to time; each may run here.
        profile: This machine's, for the options of its backends.
        threads: CPU threads for the runtimes.
        seconds: How long each runs in all.
        done: Told each variant's id after each of its rounds.

    Returns:
        By id, the timing, or the reason why there is none.
    """
    found: dict[str, Timing | str] = {}
    labs: list[LabProcess] = []
    try:
        for variant in variants:
            try:
                labs.append(LabProcess(bundle, variant, profile, threads))
            except BackendError as error:  # noqa: PERF203 - one candidate's fault is not the others'
                found[variant.id] = error.message
        rounds, errors = take_turns(labs, seconds, fill=True, done=done)
        for lab in labs:
            name = lab.variant.id
            found[name] = errors[name] if name in errors else _timing(lab, rounds[name], profile.id, threads)
    finally:
        for lab in labs:
            lab.close()
    return found


def _timing(lab: LabProcess, rounds: Rounds, profile: str, threads: int) -> Timing:
    return Timing(
        profile=profile,
        threads=threads,
        p50_ms=rounds.p50_ms,
        p95_ms=rounds.quantile_ms(0.95),
        p99_ms=rounds.quantile_ms(0.99),
        pre_ms=quiet(rounds.pre_ms),
        load_ms=lab.loaded["load_ms"],
        rss_mb=lab.loaded["rss_mb"],
        noise=rounds.noise,
        rounds=len(rounds.times_us),
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def joined(sittings: Sequence[Timing]) -> Timing:
    """Return one timing of several, each measured in fresh processes.

    How memory happens to be laid out makes a process some percent faster or slower than another
    of the same file, which no number of rounds evens out: speeds are means over the sittings.
    """
    first = sittings[0]
    return Timing(
        profile=first.profile,
        threads=first.threads,
        p50_ms=statistics.fmean(one.p50_ms for one in sittings),
        p95_ms=max(one.p95_ms or 0.0 for one in sittings),
        p99_ms=max(one.p99_ms for one in sittings),
        pre_ms=statistics.fmean(one.pre_ms for one in sittings),
        load_ms=statistics.fmean(one.load_ms for one in sittings),
        rss_mb=max(one.rss_mb for one in sittings),
        noise=max(one.noise for one in sittings),
        rounds=sum(one.rounds for one in sittings),
        measured=first.measured,
    )
