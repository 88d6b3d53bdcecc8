"""``edgekit bench``: measure every variant that runs here; selection then uses the figures."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from edgekit.agent.bundle import Bundle, open_bundle
from edgekit.agent.costs import MeasuredCost, cost_key, measured_here, save_costs
from edgekit.agent.doctor import facts_with_proofs
from edgekit.agent.lab import LabProcess, open_lab, time_in_turn
from edgekit.agent.model import default_threads
from edgekit.cli.report import Report
from edgekit.core.errors import BackendError
from edgekit.core.select import select
from edgekit.core.spec import Variant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")
    parser.add_argument("--threads", type=int, help="CPU threads for the runtime (all cores but one)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each variant runs (2)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure in short turns, each variant in its own process, and remember the costs."""
    bundle = open_bundle(arguments.bundle)
    facts, chosen = facts_with_proofs(Path("/"))
    threads = arguments.threads or default_threads(facts)
    variants = bundle.manifest.variants
    with open_lab(bundle, variants, facts, chosen.profile, threads) as (labs, reasons):
        times, errors = time_in_turn(labs, arguments.seconds)
        rows = [_row(lab, times[lab.variant.id]) for lab in labs if lab.variant.id not in errors]
    save_costs({cost_key(_variant(bundle, row["id"]), threads): _cost(row) for row in rows})
    failed = reasons | errors
    rows += [_failed_row(variant, failed[variant.id]) for variant in variants if variant.id in failed]
    selection = select(bundle.manifest, facts, chosen.profile, measured_here(bundle.manifest, threads))
    document = {
        "profile": chosen.profile.id,
        "threads": threads,
        "chosen": selection.chosen.id if selection.chosen else None,
        "variants": rows,
    }
    code = 0 if selection.chosen else BackendError.exit_code
    return Report(document, _text(document, selection.why), code)


def _variant(bundle: Bundle, name: str) -> Variant:
    return next(variant for variant in bundle.manifest.variants if variant.id == name)


def _row(lab: LabProcess, times_us: list[float]) -> dict[str, Any]:
    ranked = sorted(times_us)
    variant = lab.variant
    return _failed_row(variant, None) | {
        "accelerator": lab.loaded["accelerator"],
        "p50_ms": statistics.median(ranked) / 1e3,
        "p95_ms": ranked[int(0.95 * (len(ranked) - 1))] / 1e3,
        "p99_ms": ranked[int(0.99 * (len(ranked) - 1))] / 1e3,
        "inferences_per_s": 1e6 / statistics.fmean(ranked),
        "load_ms": lab.loaded["load_ms"],
        "first_ms": lab.loaded["first_ms"],
        "rss_mb": lab.loaded["rss_mb"],
    }


def _failed_row(variant: Variant, error: str | None) -> dict[str, Any]:
    numbers = ("p50_ms", "p95_ms", "p99_ms", "inferences_per_s", "load_ms", "first_ms", "rss_mb")
    return {
        "id": variant.id,
        "backend": variant.backend,
        "accelerator": variant.accelerator,
        "precision": variant.precision,
        **dict.fromkeys(numbers),
        "bytes": sum(file.bytes for file in variant.files),
        "error": error,
    }


def _cost(row: dict[str, Any]) -> MeasuredCost:
    return MeasuredCost(row["p50_ms"], row["p95_ms"], row["p99_ms"], row["rss_mb"], int(time.time() * 1e3))


def _text(document: dict[str, Any], why: str) -> str:
    heads = ("p50", "p95", "p99", "1/s", "load", "first")
    lines = [f"{'variant':<28}" + "".join(f" {head:>8}" for head in heads) + f" {'RSS':>7} {'size':>8}"]
    for row in document["variants"]:
        if row["error"]:
            lines.append(f"{row['id']:<28} {row['error']}")
            continue
        mark = "  <- chosen" if row["id"] == document["chosen"] else ""
        lines.append(
            f"{row['id']:<28} {row['p50_ms']:>6.2f}ms {row['p95_ms']:>6.2f}ms {row['p99_ms']:>6.2f}ms"
            f" {row['inferences_per_s']:>8.1f} {row['load_ms']:>6.0f}ms {row['first_ms']:>6.1f}ms"
            f" {row['rss_mb']:>5.0f}MB {row['bytes'] / 1e6:>6.2f}MB{mark}"
        )
    lines.append(f"{document['threads']} thread(s), profile {document['profile']}: {why}")
    return "\n".join(lines)
