"""The child of a measurement job: golden samples first, then times; it stores nothing.

It answers a ``MeasureTask`` with a ``MeasurementRecord``, at low priority and with at most half of the free
memory. It leads a process group, so that the processes that hold variants end with it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.children import MeasureTask
from edgekit.base.child import run_job
from edgekit.bench.measure import Circumstances, blank_row, row_of
from edgekit.bench.paired_timing import quiet, take_turns
from edgekit.bench.variant_process import VariantProcess, open_processes
from edgekit.core.errors import BackendError, BundleError
from edgekit.core.spec import Facts, Manifest, Profile, Variant, parse_manifest
from edgekit.core.wire import MAX_MEASURED_VARIANTS, MeasuredVariant, MeasurementRecord
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.doctor import facts_with_proofs
from edgekit.update.slots import SIGNED

_NICE = 10
_LIBRARY_MB = 64.0
"""Memory of a runtime before any model."""
_MEMORY_SHARE = 0.5
_MAX_TOGETHER = 6


def needed_mb(variant: Variant) -> float:
    """Return a variant's approximate memory: library, weights, and working space."""
    weights_mb = sum(file.bytes for file in variant.files) / 1e6
    return max(float(variant.requires.memory_mb), _LIBRARY_MB + 3 * weights_mb)


def together(variants: Sequence[Variant], free_mb: float) -> tuple[list[tuple[Variant, ...]], dict[str, str]]:
    """Return groups of variants to load at once and time in turn, and why others fit in no group.

    A group takes at most half of the free memory; ``free_mb`` 0: unknown.
    """
    budget_mb = free_mb * _MEMORY_SHARE if free_mb else math.inf
    groups: list[list[Variant]] = []
    reasons: dict[str, str] = {}
    taken_mb = 0.0
    for variant in variants:
        need_mb = needed_mb(variant)
        if need_mb > budget_mb:
            reasons[variant.id] = (
                f"needs about {need_mb:.0f} MB of memory, measuring may take {budget_mb:.0f} MB now"
            )
        elif groups and len(groups[-1]) < _MAX_TOGETHER and taken_mb + need_mb <= budget_mb:
            groups[-1].append(variant)
            taken_mb += need_mb
        else:
            groups.append([variant])
            taken_mb = need_mb
    return [tuple(group) for group in groups], reasons


def carry_out(task: MeasureTask) -> MeasurementRecord:
    """Return the measurements of every variant of a job that runs here.

    Raises:
        EdgekitError: Nothing can be measured.
    """
    bundle = open_bundle(task.bundle)
    facts, chosen = facts_with_proofs(Path("/"))
    task = msgspec.structs.replace(task, threads=task.threads or default_threads(facts))
    around = Circumstances(facts, chosen.profile)
    groups, reasons = together(bundle.manifest.variants[:MAX_MEASURED_VARIANTS], facts.memory_free_mb)
    rows = [row for group in groups for row in _measure_group(bundle, group, facts, chosen.profile, task)]
    absent = _absent(bundle)
    reasons |= {variant.id: task.rejected.get(variant.id, "was not fetched") for variant in absent}
    known = (*bundle.manifest.variants, *absent)
    rows += [blank_row(each, reasons[each.id]) for each in known if each.id in reasons]
    record = around.record(bundle, rows, "job", task.threads, task.seconds)
    return msgspec.structs.replace(record, job=task.job, bundle_sha256=task.sha256)


def _absent(bundle: Bundle) -> tuple[Variant, ...]:
    """Return the signed variants that were not fetched."""
    try:
        whole: Manifest = parse_manifest((bundle.root / SIGNED).read_bytes(), SIGNED)
    except OSError as cause:
        raise BundleError(f"{bundle.root}: {SIGNED} cannot be read: {cause.strerror}") from cause
    here = {variant.id for variant in bundle.manifest.variants}
    return tuple(variant for variant in whole.variants if variant.id not in here)


def _measure_group(
    bundle: Bundle, group: tuple[Variant, ...], facts: Facts, profile: Profile, task: MeasureTask
) -> list[MeasuredVariant]:
    """Check a group on the golden samples, then time it in turn."""
    proofs: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with open_processes(bundle, group, facts, profile, task.threads) as loaded:
        for process in loaded.processes:
            try:
                proofs[process.variant.id] = _prove(process)
            except BackendError as error:  # noqa: PERF203 - one variant's fault is not the others'
                failed[process.variant.id] = error.message
        proved = [process for process in loaded.processes if process.variant.id in proofs]
        rounds, errors = take_turns(proved, task.seconds, fill=True)
        failed |= loaded.rejected | loaded.unopened | loaded.failed | errors
        rows = [
            row_of(process, ran, pre_ms=quiet(ran.pre_ms), **proofs[process.variant.id])
            for process in proved
            if (ran := rounds.get(process.variant.id))
        ]
    return rows + [blank_row(each, failed[each.id]) for each in group if each.id in failed]


def _prove(process: VariantProcess) -> dict[str, Any]:
    outcomes = process.golden()
    if not outcomes:
        return {}
    worst = max(o.difference if math.isfinite(o.difference) else math.inf for o in outcomes)
    return {
        "golden_ok": all(outcome.holds for outcome in outcomes),
        "golden_difference": worst if math.isfinite(worst) else None,
    }


def _carry_out_quietly(task: MeasureTask, _: object) -> MeasurementRecord:
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    return carry_out(task)


if __name__ == "__main__":
    sys.exit(run_job(_carry_out_quietly, MeasureTask, leads_group=True))
