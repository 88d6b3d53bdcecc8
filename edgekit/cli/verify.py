"""``edgekit verify``: hashes, manifest, and golden samples on every variant that runs here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.bench.variant_process import LabProcess, open_lab
from edgekit.core.errors import BackendError, GoldenError
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import default_threads
from edgekit.model.doctor import facts_with_proofs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", help="bundle folder, .ekb file, or model file")


def run(arguments: argparse.Namespace) -> Report:
    """Check the bundle; exit code 4 where a golden sample does not hold or no variant could be tried."""
    bundle = open_bundle(arguments.bundle)
    bundle.check_hashes()
    facts, chosen = facts_with_proofs(Path("/"))
    variants = bundle.manifest.variants
    with open_lab(bundle, variants, facts, chosen.profile, default_threads(facts)) as (labs, reasons):
        tried = {lab.variant.id: _try(lab) for lab in labs}
    rows = [tried.get(v.id) or {"id": v.id, "state": "not tried", "reason": reasons[v.id]} for v in variants]
    ok = bool(tried) and all(row["state"] == "holds" for row in tried.values())
    document = {
        "ok": ok,
        "model": bundle.manifest.model,
        "version": bundle.manifest.version,
        "files": len(bundle.manifest.every_file()),
        "golden": len(bundle.manifest.golden),
        "variants": rows,
    }
    return Report(document, _text(bundle, document), 0 if ok else GoldenError.exit_code)


def _try(lab: LabProcess) -> dict[str, Any]:
    row: dict[str, Any] = {"id": lab.variant.id, "state": "fails", "reason": ""}
    try:
        row["samples"] = lab.golden()
    except BackendError as cause:
        return row | {"reason": cause.message}
    broken = [s for s in row["samples"] if not s["holds"]]
    if broken:
        return row | {"reason": "; ".join(f"{s['sample']} off by {s['difference']}" for s in broken)}
    return row | {"state": "holds"}


def _text(bundle: Bundle, document: dict[str, Any]) -> str:
    lines = [f"{bundle.source}: {document['files']} files have the hashes that bundle.json lists"]
    for row in document["variants"]:
        samples = row.get("samples", [])
        worst = max((s["difference"] for s in samples), key=float, default="0")
        detail = row["reason"] or f"{len(samples)} golden samples, off by at most {float(worst):.3g}"
        lines.append(f"  {row['id']:<28} {row['state']:<10} {detail}")
    lines.append("ok" if document["ok"] else "not ok")
    return "\n".join(lines)
