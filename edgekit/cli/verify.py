"""``edgekit verify``: check hashes, manifest, and golden samples on every variant that runs here.

Without golden samples, variants are only compared with one another, and reported as "not checked".
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.bench.agreement import disagreements
from edgekit.bench.variant_process import VariantProcess, VariantProcesses, open_processes
from edgekit.core.errors import BackendError, GoldenError
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.doctor import facts_with_proofs

_PASSED = ("holds", "not checked")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")


def run(arguments: argparse.Namespace) -> Report:
    """Check the bundle; exit code 4 if a variant that belongs here fails, or none could be run.

    A bare model file has a variant per candidate runtime. A runtime that cannot open it is no failure; one
    that crashes, hangs or cannot run it is.
    """
    bundle = open_bundle(arguments.bundle)
    bundle.check_hashes()
    facts, chosen = facts_with_proofs(Path("/"))
    variants = bundle.manifest.variants
    with open_processes(bundle, variants, facts, chosen.profile, default_threads(facts)) as loaded:
        rows = _rows(bundle, loaded)
    ordered = [rows[variant.id] for variant in variants]
    works = any(row["state"] in _PASSED for row in ordered)
    excused = loaded.unopened if bundle.is_bare else {}
    ok = works and not any(row["state"] == "fails" for row in ordered if row["id"] not in excused)
    document = {
        "ok": ok,
        "model": bundle.manifest.model,
        "version": bundle.manifest.version,
        "files": len(bundle.manifest.every_file()),
        "golden": len(bundle.manifest.golden),
        "variants": ordered,
    }
    return Report(document, _text(bundle, document), 0 if ok else GoldenError.exit_code)


def _rows(bundle: Bundle, loaded: VariantProcesses) -> dict[str, dict[str, Any]]:
    rows = {name: _row(name, "not tried", reason) for name, reason in loaded.rejected.items()}
    without = loaded.unopened | loaded.failed
    rows |= {name: _row(name, "fails", reason) for name, reason in without.items()}
    if bundle.manifest.golden:
        return rows | {process.variant.id: _try(process) for process in loaded.processes}
    differing = disagreements(loaded.processes)
    for process in loaded.processes:
        name = process.variant.id
        rows[name] = _row(name, "fails", differing[name]) if name in differing else _row(name, "not checked")
    return rows


def _row(name: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"id": name, "state": state, "reason": reason}


def _try(process: VariantProcess) -> dict[str, Any]:
    name = process.variant.id
    try:
        outcomes = process.golden()
    except BackendError as cause:
        return _row(name, "fails", cause.message)
    samples = [
        {"sample": o.sample, "difference": repr(o.difference), "atol": o.atol, "holds": o.holds}
        for o in outcomes
    ]
    broken = [f"{o.sample} off by {o.difference!r}" for o in outcomes if not o.holds]
    return _row(name, "fails" if broken else "holds", "; ".join(broken)) | {"samples": samples}


def _text(bundle: Bundle, document: dict[str, Any]) -> str:
    lines = [f"{bundle.source}: {document['files']} files have the hashes that bundle.json lists"]
    lines += [
        f"  {row['id']:<28} {row['state']:<11} {row['reason'] or _detail(row)}"
        for row in document["variants"]
    ]
    lines.append("ok" if document["ok"] else "not ok")
    if not document["golden"]:
        lines[-1] += ", answers not checked: there are no golden samples to compare with"
    return "\n".join(lines)


def _detail(row: dict[str, Any]) -> str:
    if "samples" not in row:
        return "runs here"
    worst = max((float(sample["difference"]) for sample in row["samples"]), default=0.0)
    return f"{len(row['samples'])} golden samples, off by at most {worst:.3g}"
