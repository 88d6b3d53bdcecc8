"""Measures the cost of each variant on this machine, for selection and for the fleet.

``edgekit bench`` calls it; the agent runs it as ``python -m edgekit.bench.measure`` (see ``base.child``)
after an install, for variants without a measurement. Jobs of the fleet are in ``agent.measuring.job``.
"""

from __future__ import annotations

import logging
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgekit.backends import backend_version
from edgekit.base.child import run_job
from edgekit.base.logs import log_to_stderr
from edgekit.bench.paired_timing import Rounds, take_turns
from edgekit.bench.reports import leave_report
from edgekit.bench.variant_process import VariantProcess, open_processes
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Facts, Profile, Variant, variant_hash
from edgekit.core.wire import MAX_MEASURED_VARIANTS, Board, MeasuredVariant, MeasurementRecord
from edgekit.hardware.sensors import Sensors
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.costs import MeasuredCost, MeasuredFailure, cost_key, failed_here, load_costs, save_costs
from edgekit.model.doctor import facts_with_proofs
from edgekit.version import __version__

logger = logging.getLogger(__name__)

INSTALL_SECONDS = 0.75
_MAX_ERROR = 300


def measure(
    bundle: Bundle,
    variants: tuple[Variant, ...],
    facts: Facts,
    profile: Profile,
    threads: int,
    seconds: float,
) -> list[MeasuredVariant]:
    """Return one row of figures per variant, those that ran first, and store them for selection.

    Variants run in short turns, each in its own process. One that cannot be loaded, fails, or does not
    reproduce the golden samples is stored with its error, and selection skips it.
    """
    with open_processes(bundle, variants, facts, profile, threads) as loaded:
        rounds, failed = take_turns(loaded.processes, seconds)
        failed |= loaded.unopened | loaded.failed
        for process in loaded.processes:  # after the times, so that memory is the runtime's alone
            if process.variant.id not in failed and (why := _wrong(process)):
                failed[process.variant.id] = why
        ran = [(p, rounds[p.variant.id]) for p in loaded.processes if p.variant.id not in failed]
        rows = [row_of(process, taken) for process, taken in ran]
    now_ms = int(time.time() * 1e3)
    costs = {cost_key(p.variant, threads): _cost(taken, p.loaded["rss_mb"], now_ms) for p, taken in ran}
    failures = {
        cost_key(v, threads): MeasuredFailure(failed[v.id], now_ms) for v in variants if v.id in failed
    }
    try:
        save_costs(costs, failures)
    except OSError as cause:
        logger.warning("the measurements cannot be stored, so selection ignores them: %s", cause)
    without = loaded.rejected | failed
    return rows + [blank_row(v, without[v.id]) for v in variants if v.id in without]


def _wrong(process: VariantProcess) -> str:
    try:
        process.require_golden()
    except EdgekitError as error:
        return error.one_line()
    return ""


def _cost(rounds: Rounds, rss_mb: float, now_ms: int) -> MeasuredCost:
    p95_ms, p99_ms = (rounds.quantile_ms(q) for q in (0.95, 0.99))
    return MeasuredCost(rounds.p50_ms, p95_ms, p99_ms, rss_mb, now_ms)


def blank_row(variant: Variant, error: str | None) -> MeasuredVariant:
    """Return a row without figures."""
    return MeasuredVariant(
        id=variant.id,
        content=variant_hash(variant),
        backend=variant.backend,
        backend_version=backend_version(variant.backend) or "",
        accelerator=variant.accelerator,
        precision=variant.precision,
        bytes=sum(file.bytes for file in variant.files),
        error=error,
    )


def row_of(process: VariantProcess, rounds: Rounds, **more: Any) -> MeasuredVariant:
    """Return the row of a variant that ran; ``more``: fields beyond times and memory."""
    loaded = {key: process.loaded[key] for key in ("accelerator", "load_ms", "first_ms", "rss_mb")}
    return msgspec.structs.replace(
        blank_row(process.variant, None),
        p50_ms=rounds.p50_ms,
        p95_ms=rounds.quantile_ms(0.95),
        p99_ms=rounds.quantile_ms(0.99),
        inferences_per_s=1e6 / statistics.fmean(rounds.all_us()),
        **loaded,
        **more,
    )


def unmeasured(bundle: Bundle, threads: int) -> tuple[Variant, ...]:
    """Return the variants without a measurement or a recent failure on this machine."""
    costs, failed = load_costs(), failed_here(bundle.manifest, threads)
    return tuple(
        v for v in bundle.manifest.variants if v.id not in failed and cost_key(v, threads) not in costs
    )


# -- records for the fleet


class Circumstances:
    """The board, and its load and temperatures before (construction) and after (``record``) measuring."""

    def __init__(self, facts: Facts, profile: Profile) -> None:
        self._sensors = Sensors(Path("/"), profile.telemetry)
        self._before = {"load_before": os.getloadavg()[0]}
        if (warm := self._sensors.read().get("temperature_c")) is not None:
            self._before["temperature_before_c"] = float(warm)
        self.board = Board(
            profile=profile.id,
            board=facts.board,
            arch=facts.arch,
            cpu=facts.cpu,
            cores=facts.cores,
            memory_mb=facts.memory_mb,
        )

    def record(
        self,
        bundle: Bundle,
        rows: Sequence[MeasuredVariant],
        origin: Literal["bench", "install", "job"],
        threads: int,
        seconds: float,
    ) -> MeasurementRecord:
        """Return the measurement as a record for the fleet, its rows and their errors within bounds."""
        read = ((name, float(value)) for name, value in self._sensors.read().items())
        after = {name: value for name, value in read if math.isfinite(value)}
        return MeasurementRecord(
            mono_ns=time.monotonic_ns(),
            unix_ms=time.time_ns() // 1_000_000,
            origin=origin,
            model=bundle.manifest.model,
            version=bundle.manifest.version,
            bundle_sha256=bundle.digest,
            board=self.board,
            threads=threads,
            seconds=seconds,
            variants=tuple(map(_bounded, rows[:MAX_MEASURED_VARIANTS])),
            sensors=after | self._before,
            agent=__version__,
        )


def _bounded(row: MeasuredVariant) -> MeasuredVariant:
    return msgspec.structs.replace(row, error=row.error[:_MAX_ERROR]) if row.error else row


def measure_new(source: str, state: str) -> None:
    """Measure variants without a measurement; leave a report in the state folder, if ``state`` names one."""
    bundle = open_bundle(source)
    facts, chosen = facts_with_proofs(Path("/"))
    threads = default_threads(facts)
    missing = unmeasured(bundle, threads)
    if not missing:
        return
    around = Circumstances(facts, chosen.profile)
    rows = measure(bundle, missing, facts, chosen.profile, threads, INSTALL_SECONDS)
    if state:
        leave_report(Path(state), around.record(bundle, rows, "install", threads, INSTALL_SECONDS))


if __name__ == "__main__":
    log_to_stderr(logging.WARNING)
    sys.exit(run_job(lambda request, _: measure_new(*request), tuple[str, str]))
