"""``edgekit import``: a bundle of a foreign model file, and where each conclusion comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.core.spec import Finding
from edgekit.importer.build import findings_text
from edgekit.importer.findings import flag_of
from edgekit.importer.flags import parse_flags
from edgekit.importer.importing import Imported, import_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("words", nargs="+", metavar="MODEL | KEY=VALUE", help="files of one model, and flags")
    parser.add_argument("-o", "--out", required=True, metavar="BUNDLE", help="the bundle's folder, new")
    parser.add_argument("--try", dest="try_on", metavar="FOLDER|FILE", help="pictures to try it on")
    parser.add_argument("--labels", metavar="F", help="a file of labels, a list a,b,c, or coco80")
    parser.add_argument(
        "--decoder", metavar="D", help="the family or decoder, where several fit or none does"
    )
    parser.add_argument("--license", metavar="SPDX", help="the licence that you publish it under")
    parser.add_argument("--name", metavar="NAME", help="the model's name; by default the file's")


def run(arguments: argparse.Namespace) -> Report:
    """Import; exit code 4 with the flags to give where only the user can decide."""
    files, words = split_words(arguments.words)
    flags = parse_flags(words)
    given = {"decoder": arguments.decoder, "labels": arguments.labels, "license": arguments.license}
    flags |= {key: value for key, value in given.items() if value is not None}
    imported = import_model(files, arguments.out, try_on=arguments.try_on, name=arguments.name, flags=flags)
    return Report(document_of(imported), text_of(imported), 0)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files and the ``KEY=VALUE`` words; an existing file may have ``=`` in its name."""
    files = [word for word in words if "=" not in word or Path(word).exists()]
    return files, [word for word in words if word not in files]


def document_of(imported: Imported) -> dict[str, Any]:
    """Return the JSON document of an import."""
    manifest = imported.manifest
    return {
        "bundle": str(imported.path),
        "model": manifest.model,
        "family": manifest.provenance.family,
        "task": manifest.task,
        "decoder": manifest.post.decoder,
        "conclusions": [
            msgspec.to_builtins(row) | {"flag": flag_of(row.key)} for row in manifest.provenance.conclusions
        ],
        "variants": [variant.id for variant in manifest.variants],
        "not_compared": list(manifest.provenance.not_compared),
        "excluded": manifest.provenance.excluded,
        "pictures": imported.pictures,
        "items": imported.items,
    }


def conclusions_text(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each conclusion: key, value, source, why, and the flag that overrides it."""
    rows = findings_text(findings)
    wide = max((len(key) for key, *_ in rows), default=0)
    return [
        f"  {key:<{wide}}  {value}  [{source}{': ' + why if why else ''}]  {flag_of(key)}"
        for key, value, source, why in rows
    ]


def text_of(imported: Imported) -> str:
    """Return the conclusions, the variants and the next command as text."""
    manifest, origin = imported.manifest, imported.manifest.provenance
    lines = [f"{imported.path}: {manifest.task} by {origin.family} (value, [source], flag that overrides it)"]
    lines += conclusions_text(origin.conclusions)
    lines += [
        f"  variant {v.id}: {'not compared here' if v.id in origin.not_compared else 'runs here, agrees'}"
        for v in manifest.variants
    ]
    lines += [f"  left out {name}: {why}" for name, why in origin.excluded.items()]
    if not manifest.license:
        lines.append("  no licence is stated: edgekit bundle set BUNDLE license=SPDX before you publish it")
    return "\n".join([*lines, f"next: {_next_command(imported)}"])


def _next_command(imported: Imported) -> str:
    """Return the command that uses the bundle on what its model takes."""
    pre, task, path = imported.manifest.pre, imported.manifest.task, imported.path
    if task == "raw":
        return f"edgekit serve {path}"
    if pre.columns or pre.window:
        file = "FILE.wav" if task in ("audio", "voice") else "FILE.csv"
        return f"edgekit run {path} --source {file} --sink jsonl"
    return f"edgekit run {path} --source FILE|CAMERA --sink video"
