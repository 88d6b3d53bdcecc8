"""Time candidates in alternating rounds, each in its own process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from edgekit.bench.paired_timing import Rounds, quiet, take_turns
from edgekit.bench.variant_process import VariantProcess
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
    """Time each variant in its own process, one round at a time in turn.

    Args:
        bundle: The bundle with their files.
        variants: The variants to time; all must be able to run here.
        profile: This machine's, for the options of its backends.
        threads: CPU threads for the runtimes.
        seconds: How long each runs in total.
        done: Called with the variant's id after each of its rounds.

    Returns:
        By id, the timing, or the reason why there is none.
    """
    results: dict[str, Timing | str] = {}
    processes: list[VariantProcess] = []
    try:
        for variant in variants:
            try:
                processes.append(VariantProcess(bundle, variant, profile, threads))
            except BackendError as error:  # noqa: PERF203 - the others go on
                results[variant.id] = error.message
        rounds, errors = take_turns(processes, seconds, fill=True, done=done)
        for process in processes:
            name = process.variant.id
            results[name] = (
                errors[name] if name in errors else _timing(process, rounds[name], profile.id, threads)
            )
    finally:
        for process in processes:
            process.close()
    return results


def _timing(process: VariantProcess, rounds: Rounds, profile: str, threads: int) -> Timing:
    return Timing(
        profile=profile,
        threads=threads,
        p50_ms=rounds.p50_ms,
        p95_ms=rounds.quantile_ms(0.95),
        p99_ms=rounds.quantile_ms(0.99),
        pre_ms=quiet(rounds.pre_ms),
        load_ms=process.loaded["load_ms"],
        rss_mb=process.loaded["rss_mb"],
        noise=rounds.noise,
        rounds=len(rounds.times_us),
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def joined(sittings: Sequence[Timing]) -> Timing:
    """Combine several timings, each measured in new processes, into one.

    Memory layout makes one process a few percent faster than another of the same file, which more
    rounds do not average out: speeds are means over the sittings.
    """
    first = sittings[0]
    return Timing(
        profile=first.profile,
        threads=first.threads,
        p50_ms=statistics.fmean(timing.p50_ms for timing in sittings),
        p95_ms=max(timing.p95_ms or 0.0 for timing in sittings),
        p99_ms=max(timing.p99_ms for timing in sittings),
        pre_ms=statistics.fmean(timing.pre_ms for timing in sittings),
        load_ms=statistics.fmean(timing.load_ms for timing in sittings),
        rss_mb=max(timing.rss_mb for timing in sittings),
        noise=max(timing.noise for timing in sittings),
        rounds=sum(timing.rounds for timing in sittings),
        measured=first.measured,
    )
