"""``edgekit doctor``: this machine's hardware and profile, which backends work, and what to fix."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.core.errors import BackendError, UsageError
from edgekit.core.spec import AcceleratorFact, BackendFact
from edgekit.hardware.capture import capture
from edgekit.model.doctor import Examination, examine
from edgekit.pipeline.sources.recipes import DecoderRow, survey_decoders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "--sysfs-root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="read hardware facts below DIR: an unpacked capture of another board",
    )
    parser.add_argument(
        "--dump", type=Path, metavar="FILE", help="also write the files that were read to FILE (.tar.gz)"
    )


def run(args: argparse.Namespace) -> Report:
    """Examine the machine; exit code 5 if no backend works."""
    root: Path = args.sysfs_root
    if not root.is_dir():
        raise UsageError(f"--sysfs-root {root}: there is no such folder")
    examination = examine(root, on_step=_progress)
    decoders = survey_decoders(root)
    _progress("")
    if args.dump is not None:
        capture(root, args.dump, examination.chosen.profile)
    works = any(backend.works for backend in examination.facts.backends)
    text = "\n".join([render(examination), "", "video decoders", *map(_decoder_line, decoders)])
    if args.dump is not None:
        text += f"\n\ncaptured to {args.dump}"
    rows = {"decoders": [dataclasses.asdict(row) for row in decoders]}
    return Report(document(examination) | rows, text, 0 if works else BackendError.exit_code)


def _progress(step: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{step}", end="", file=sys.stderr, flush=True)


def document(examination: Examination) -> dict[str, Any]:
    """Return the document of ``--json``."""
    facts = examination.facts
    return {
        "profile": examination.chosen.profile.id,
        **{key: getattr(facts, key) for key in ("board", "arch", "cores", "memory_mb")},
        "accelerators": list(facts.accelerators),
        "backends": [
            {
                key: getattr(backend, key)
                for key in ("name", "version", "accelerator", "works", "ms", "reason")
            }
            for backend in facts.backends
        ],
        "warnings": list(facts.warnings),
    }


def render(examination: Examination) -> str:
    """Return the examination as text."""
    facts, chosen = examination.facts, examination.chosen
    lines = [
        f"board     {facts.board or 'unknown'}",
        f"cpu       {facts.cpu or 'unknown'}, {facts.cores} cores, {facts.arch}",
        f"features  {' '.join(facts.cpu_features) or 'none known'}",
        f"memory    {facts.memory_mb} MiB, {facts.memory_free_mb} MiB free",
    ]
    if facts.jetpack:
        lines.append(f"jetpack   {facts.jetpack}")
    if now := _now(examination.sensors):
        lines.append(f"now       {now}")
    lines.append(f"profile   {chosen.profile.id} ({chosen.profile.title})")
    lines.append(f"          because {chosen.reason}")
    others = [verdict.profile.id for verdict in chosen.why[1:] if verdict.fits]
    if others:
        lines.append(f"          less specific: {', '.join(others)}")
    devices = [a for a in facts.accelerators if a.kind != "cpu"]
    if devices:
        lines += ["", "accelerators", *(line for device in devices for line in _device_lines(device))]
    lines += ["", "backends", *(_backend_line(backend) for backend in facts.backends)]
    if facts.warnings:
        lines += ["", "warnings", *(f"  - {warning}" for warning in facts.warnings)]
    return "\n".join(lines)


def _now(sensors: dict[str, float | bool]) -> str:
    parts = []
    if "temperature_c" in sensors:
        parts.append(f"{sensors['temperature_c']:.1f} C")
    if "power_w" in sensors:
        parts.append(f"{sensors['power_w']:.1f} W")
    if "cpu_freq_ratio" in sensors:
        parts.append(f"clock at {sensors['cpu_freq_ratio']:.0%}")
    if "throttled" in sensors:
        parts.append("THROTTLED" if sensors["throttled"] else "not throttled")
    return ", ".join(parts)


def _device_lines(device: AcceleratorFact) -> list[str]:
    lines = [f"  {device.kind:<13}{device.name}: {'usable' if device.usable else 'NOT usable'}"]
    for level in device.levels:
        lines.append(f"    {'ok' if level.ok else 'NO':<4}{level.name:<12}{level.detail}")
        if level.fix:
            lines.append(f"        fix: {level.fix}")
    return lines


def _decoder_line(row: DecoderRow) -> str:
    state = "ok" if row.works else "no"
    reason = row.reason or ("" if row.was_run else "everything is there; not yet run on such a board")
    return f"  {state:<4}{row.name:<13}{row.title}" + (f": {reason}" if reason else "")


def _backend_line(backend: BackendFact) -> str:
    state = "ok" if backend.works else "no"
    took = f"{backend.ms:.2f} ms" if backend.ms is not None else ""
    line = f"  {state:<4}{backend.name:<13}{backend.accelerator:<14}{backend.version or '-':<12}{took}"
    return f"{line.rstrip()}  {backend.reason}" if backend.reason else line.rstrip()
