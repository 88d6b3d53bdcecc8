# ruff: noqa: INP001 - a script beside the documents
"""Writes the tables of boards that were tested, in README.md and docs/hardware.md, from their reports.

    python docs/generate_hardware.py

A report is what ``edgekit selftest --report docs/hardware/reports/NAME.json`` wrote on the machine. What
stands between the marks in the two pages comes from these files alone, and a test compares them. A model
holds where every golden sample does; the kept speed is the last minutes' over the first ones' under load.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from edgekit.bench.selftest import Endurance, SelftestReport
from edgekit.core.errors import UsageError
from edgekit.hardware.profiles import load_profiles

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/hardware.md")
REPORTS = ROOT / "docs" / "hardware" / "reports"
BEGIN = "<!-- begin: written by docs/generate_hardware.py, not by hand -->"
END = "<!-- end -->"
HEAD = (
    "| machine | kind | profile | system | backends that ran a model | models that held | speed kept | day |",
    "|---|---|---|---|---|---|---|---|",
)


def main() -> int:
    """Write the tables into the pages."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8"), page), encoding="utf-8")
    print(f"{len(list(REPORTS.glob('*.json')))} reports")
    return 0


def filled(text: str, page: str) -> str:
    """Return a page with the table of all reports between its marks.

    Raises:
        UsageError: It has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{page} lacks the marks between which the table goes", hint=f"{BEGIN} and {END}")
    folder = "docs/hardware/reports" if page == "README.md" else "hardware/reports"
    return f"{before}{BEGIN}\n{table(folder)}\n{end}{after}"


def table(folder: str) -> str:
    """Return the table of all reports, with links below ``folder``, and the profiles without one."""
    reports = {
        path.name: msgspec.json.decode(path.read_bytes(), type=SelftestReport)
        for path in sorted(REPORTS.glob("*.json"))
    }
    rows = [_row(report, f"{folder}/{name}") for name, report in reports.items()]
    seen = {report.profile for report in reports.values() if report.kind != "emulated"}
    missing = [f"`{profile.id}`" for profile in load_profiles() if profile.id not in seen]
    without = f"No report of a machine yet, so nothing is claimed: {', '.join(missing)}."
    return "\n".join([*HEAD, *rows, "", without])


def _row(report: SelftestReport, link: str) -> str:
    facts = report.facts
    name = ", ".join(filter(None, (facts.board, facts.cpu))) or facts.arch
    ran = [f"{b.name} {b.version} ({b.accelerator})" for b in facts.backends if b.works]
    models = [
        f"{m.model} {m.version} ({sum(not row.error for row in m.variants)} of {len(m.variants)} variants)"
        for m in report.models
        if m.golden
    ]
    kind = {"board": "hardware", "virtual": "virtual machine", "emulated": "**emulation**"}[report.kind]
    cells = (
        f"[{name}, {facts.cores} cores]({link})",
        kind,
        f"`{report.profile}`",
        f"{report.system}, Python {report.python}",
        ", ".join(ran) or "none",
        ", ".join(models) or "none",
        _kept(report.endurance, report.kind),
        report.date,
    )
    return f"| {' | '.join(cells)} |"


def _kept(endurance: Endurance | None, kind: str) -> str:
    if endurance is None or kind == "emulated":  # an emulator's speed says nothing of a board's
        return "not measured"
    heat = [float(r.sensors["temperature_c"]) for r in endurance.readings if "temperature_c" in r.sensors]
    hottest = f"hottest {max(heat):.0f} °C" if heat else "no sensor"
    return f"{endurance.kept_ratio:.0%} after {endurance.seconds / 60:.0f} min, {hottest}"


if __name__ == "__main__":
    sys.exit(main())
