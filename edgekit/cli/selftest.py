"""``edgekit selftest``: what this machine is, what runs on it, whether it keeps its speed; for a report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.bench.selftest import Endurance, SelftestReport, selftest
from edgekit.core.errors import BackendError, GoldenError, UsageError
from edgekit.model.bundle import open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", help="models to run; none: a tiny one")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there, as JSON")
    parser.add_argument("--seconds", type=float, default=600.0, help="of full load, at the end (600)")


def run(arguments: argparse.Namespace) -> Report:
    """Test; exit code 5 if no backend works, 4 if a variant that belongs here fails."""
    if arguments.seconds < 0:
        raise UsageError(f"--seconds: want 0 or more, got {arguments.seconds}")
    report = selftest([open_bundle(name) for name in arguments.bundles], arguments.seconds, _progress)
    _progress("")
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=1)
    document: dict[str, Any] = msgspec.json.decode(encoded)
    text = _text(report)
    if arguments.report is not None:
        arguments.report.write_bytes(encoded + b"\n")
        text += f"\nreport: {arguments.report}"
    works = any(backend.works for backend in report.facts.backends)
    code = GoldenError.exit_code if report.failures else 0
    return Report(document, text, code if works else BackendError.exit_code)


def _progress(step: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{step}", end="", file=sys.stderr, flush=True)


def _text(report: SelftestReport) -> str:
    facts = report.facts
    lines = [
        f"{facts.board or facts.cpu}, profile {report.profile}, {report.kind}",
        f"{report.system}, Linux {report.kernel}, Python {report.python}, edgekit {report.edgekit}",
    ]
    for backend in facts.backends:
        state = "ok" if backend.works else f"no  {backend.reason}"
        lines.append(f"  {backend.name} {backend.version} on {backend.accelerator}: {state}")
    for model in report.models:
        lines.append(f"  {model.model} {model.version}")
        lines += [
            f"    {row.id}: {row.error or f'{row.p50_ms:.2f} ms, {row.inferences_per_s:.1f}/s'}"
            for row in model.variants
        ]
    return "\n".join([*lines, *_endurance(report.endurance)])


def _endurance(endurance: Endurance | None) -> list[str]:
    if endurance is None:
        return ["  no load was run"]
    hottest = [float(r.sensors["temperature_c"]) for r in endurance.readings if "temperature_c" in r.sensors]
    throttled = any(reading.sensors.get("throttled") for reading in endurance.readings)
    heat = f"hottest {max(hottest):.1f} C" if hottest else "no temperature sensor"
    load = (
        f"{endurance.seconds:.0f} s of {endurance.model} {endurance.variant} on {endurance.processes} cores"
    )
    return [
        f"  {load}: {endurance.kept_ratio:.0%} of the speed kept, {heat}{', THROTTLED' if throttled else ''}"
    ]
