"""Measures what each variant costs on this machine, so that selection becomes measured.

``edgekit bench`` does it for a person; ``python -m edgekit.agent.measure BUNDLE`` does it for the
agent after an install, in a process of its own, for the variants that have no measurement yet.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from pathlib import Path

import msgspec

from edgekit.agent.bundle import Bundle, open_bundle
from edgekit.agent.costs import MeasuredCost, cost_key, load_costs, save_costs
from edgekit.agent.doctor import facts_with_proofs
from edgekit.agent.lab import LabProcess, open_lab, time_in_turn
from edgekit.agent.model import default_threads
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Facts, Profile, Variant

logger = logging.getLogger(__name__)

INSTALL_SECONDS = 0.75


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one variant did; numbers are None where it did not run, and ``error`` says why."""

    id: str
    backend: str
    accelerator: str
    precision: str
    bytes: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    inferences_per_s: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    rss_mb: float | None = None
    error: str | None = None


def measure(
    bundle: Bundle,
    variants: tuple[Variant, ...],
    facts: Facts,
    profile: Profile,
    threads: int,
    seconds: float,
) -> list[Measurement]:
    """Run variants in short turns, each in its own process, and remember what they cost.

    Args:
        bundle: Where the files lie.
        variants: Those to measure.
        facts: What this machine is.
        profile: Its profile.
        threads: CPU threads for the runtimes.
        seconds: How long each variant runs.

    Returns:
        One row for each variant, those that ran first.
    """
    with open_lab(bundle, variants, facts, profile, threads) as (labs, reasons):
        times, errors = time_in_turn(labs, seconds)
        ran = [(lab, times[lab.variant.id]) for lab in labs if lab.variant.id not in errors]
        rows = [_row(lab, taken) for lab, taken in ran]
    save_costs({cost_key(lab.variant, threads): _cost(taken, lab.loaded["rss_mb"]) for lab, taken in ran})
    failed = reasons | errors
    return rows + [_blank(variant, failed[variant.id]) for variant in variants if variant.id in failed]


def _blank(variant: Variant, error: str | None) -> Measurement:
    return Measurement(
        id=variant.id,
        backend=variant.backend,
        accelerator=variant.accelerator,
        precision=variant.precision,
        bytes=sum(file.bytes for file in variant.files),
        error=error,
    )


def _row(lab: LabProcess, times_us: list[float]) -> Measurement:
    cost = _cost(times_us, lab.loaded["rss_mb"])
    return msgspec.structs.replace(
        _blank(lab.variant, None),
        accelerator=lab.loaded["accelerator"],
        p50_ms=cost.p50_ms,
        p95_ms=cost.p95_ms,
        p99_ms=cost.p99_ms,
        inferences_per_s=1e6 / statistics.fmean(times_us),
        load_ms=lab.loaded["load_ms"],
        first_ms=lab.loaded["first_ms"],
        rss_mb=cost.rss_mb,
    )


def _cost(times_us: list[float], rss_mb: float) -> MeasuredCost:
    ranked = sorted(times_us)
    p50, p95, p99 = (ranked[int(q * (len(ranked) - 1))] / 1e3 for q in (0.5, 0.95, 0.99))
    return MeasuredCost(p50, p95, p99, rss_mb, int(time.time() * 1e3))


def unmeasured(bundle: Bundle, threads: int) -> tuple[Variant, ...]:
    """Return the variants that have no measurement on this machine yet."""
    costs = load_costs()
    return tuple(v for v in bundle.manifest.variants if cost_key(v, threads) not in costs)


def main(arguments: list[str]) -> int:
    """Measure what is not measured yet of the bundle that is named."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    try:
        bundle = open_bundle(arguments[0])
        facts, chosen = facts_with_proofs(Path("/"))
        threads = default_threads(facts)
        missing = unmeasured(bundle, threads)
        if missing:
            measure(bundle, missing, facts, chosen.profile, threads, INSTALL_SECONDS)
    except EdgekitError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
