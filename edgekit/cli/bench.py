"""``edgekit bench``: measure every variant that runs here; selection then uses the figures.

With ``--report`` the figures also go to the fleet, which predicts other devices of this board from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.agent.status import ask_if_running
from edgekit.base.command_line import Report
from edgekit.bench.measure import Circumstances, measure
from edgekit.bench.reports import leave_report
from edgekit.cli.agent import state_folder
from edgekit.core.errors import NoVariantError, UsageError
from edgekit.core.select import select
from edgekit.core.wire import MeasuredVariant
from edgekit.model.bundle import open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.doctor import facts_with_proofs

_COLUMNS = (
    *("id", "backend", "accelerator", "precision", "bytes", "p50_ms", "p95_ms", "p99_ms"),
    *("inferences_per_s", "load_ms", "first_ms", "rss_mb", "error"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")
    parser.add_argument("--threads", type=int, help="CPU threads for the runtime (all cores but one)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each variant runs (2)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="send the figures to the fleet, through this device's agent",
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="the agent's state folder, for --report")
    parser.add_argument("--config", type=Path, metavar="FILE", help="agent.toml, for --report")


def run(arguments: argparse.Namespace) -> Report:
    """Measure, and report which variant is chosen now."""
    state = _reporting_state(arguments) if arguments.report else None
    bundle = open_bundle(arguments.bundle)
    facts, chosen = facts_with_proofs(Path("/"))
    threads = arguments.threads or default_threads(facts)
    manifest, profile = bundle.manifest, chosen.profile
    around = Circumstances(facts, profile)
    rows = measure(bundle, manifest.variants, facts, profile, threads, arguments.seconds)
    failed = {row.id: row.error for row in rows if row.error}
    measured = {row.id: row.p50_ms for row in rows if row.p50_ms is not None}
    selection = select(manifest, facts, profile, measured, exclude=failed)
    document: dict[str, Any] = {
        "profile": profile.id,
        "threads": threads,
        "chosen": selection.chosen.id if selection.chosen else None,
        "variants": [{key: getattr(row, key) for key in _COLUMNS} for row in rows],
    }
    text = _table(rows, document["chosen"])
    text.append(f"{threads} thread(s), profile {profile.id}: {selection.why}")
    if state is not None:
        leave_report(state, around.record(bundle, rows, "bench", threads, arguments.seconds))
        document["reported"] = _hand_over(state)
        text.append(f"reported to the fleet: {document['reported']}")
    return Report(document, "\n".join(text), 0 if selection.chosen else NoVariantError.exit_code)


def _reporting_state(arguments: argparse.Namespace) -> Path:
    state = state_folder(arguments)
    if not (state / "identity" / "enrolment.json").exists():
        raise UsageError(
            f"--report: no device is enrolled in {state}",
            hint="edgekit agent enroll --fleet URL --token T, or name its state folder: --state DIR",
        )
    return state


def _hand_over(state: Path) -> str:
    """Ask the running agent to take the report; otherwise it is taken at the agent's next start."""
    is_taken = ask_if_running(state, {"op": "reports"}) is not None
    return "by the agent, as soon as its link is up" if is_taken else "when the agent starts"


def _table(rows: Sequence[MeasuredVariant], chosen: str | None) -> list[str]:
    heads = ("p50", "p95", "p99", "1/s", "load", "first")
    lines = [f"{'variant':<28}" + "".join(f" {head:>8}" for head in heads) + f" {'RSS':>7} {'size':>8}"]
    for row in rows:
        if row.error:
            lines.append(f"{row.id:<28} {row.error}")
            continue
        mark = "  <- chosen" if row.id == chosen else ""
        lines.append(
            f"{row.id:<28} {row.p50_ms:>6.2f}ms {row.p95_ms:>6.2f}ms {row.p99_ms:>6.2f}ms"
            f" {row.inferences_per_s:>8.1f} {row.load_ms:>6.0f}ms {row.first_ms:>6.1f}ms"
            f" {row.rss_mb:>5.0f}MB {row.bytes / 1e6:>6.2f}MB{mark}"
        )
    return lines
