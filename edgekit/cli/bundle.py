"""``edgekit bundle``: show a bundle, check it, set its fields, add a variant, pack it into one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.cli import verify
from edgekit.cli.importing import conclusions_text
from edgekit.core.spec import Manifest
from edgekit.importer.editing import add_variant, pack, set_fields
from edgekit.importer.flags import parse_flags
from edgekit.model.bundle import open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the subcommands and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in (
        ("show", "print what a bundle is and where each conclusion comes from"),
        ("check", "check hashes, manifest and golden samples, as edgekit verify does"),
        ("set", "change fields: license, labels, thresholds, colours, the decoder's options"),
        ("add-variant", "add a file that does not run here; golden samples judge it on the device"),
        ("pack", "write it as one .ekb file"),
    ):
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        sub.add_argument("bundle", metavar="BUNDLE")
        if name == "set":
            sub.add_argument("words", nargs="*", metavar="KEY=VALUE", help="such as license=Apache-2.0")
            sub.add_argument("--labels", metavar="F", help="a file of labels, or a list a,b,c")
        if name == "add-variant":
            sub.add_argument("file", type=Path, metavar="FILE")
            sub.add_argument(
                "words", nargs="+", metavar="KEY=VALUE", help="accelerator=, backend=, precision="
            )
            sub.add_argument("--like", metavar="ID", help="the variant whose tensor names it has")
        if name == "pack":
            sub.add_argument("-o", "--out", type=Path, metavar="FILE.ekb", help="by default beside it")


def run(arguments: argparse.Namespace) -> Report:
    """Do one action; exit code 4 if the bundle is at fault."""
    bundle = arguments.bundle
    if arguments.action == "show":
        return shown(open_bundle(bundle).manifest, bundle)
    if arguments.action == "check":
        return verify.run(arguments)
    if arguments.action == "set":
        flags = parse_flags([*arguments.words, *([f"labels={arguments.labels}"] if arguments.labels else [])])
        return shown(set_fields(bundle, flags), bundle)
    if arguments.action == "add-variant":
        like = arguments.like or open_bundle(bundle).manifest.variants[0].id
        manifest = add_variant(bundle, arguments.file, like=like, changes=parse_flags(arguments.words))
        return shown(manifest, bundle)
    out = arguments.out or Path(bundle).with_suffix(".ekb")
    size = pack(bundle, out)
    return Report({"file": str(out), "bytes": size}, f"{out}: {size:,} bytes", 0)


def shown(manifest: Manifest, name: str) -> Report:
    """Return a manifest as a document and as text."""
    document: dict[str, Any] = msgspec.to_builtins(manifest)
    lines = [f"{name}: {manifest.model} {manifest.version}, {manifest.task}"]
    lines.append(f"  licence: {manifest.license or 'not stated'}")
    for what, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        lines += [f"  {what} {spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs]
    origin = manifest.provenance
    lines += [
        f"  variant {v.id}: {v.backend} on {v.accelerator}, {v.precision}"
        + (", not compared" if v.id in origin.not_compared else "")
        for v in manifest.variants
    ]
    lines += [f"  left out {variant}: {why}" for variant, why in origin.excluded.items()]
    lines.append(f"  golden samples: {len(manifest.golden)}")
    return Report(document, "\n".join([*lines, *conclusions_text(origin.conclusions)]), 0)
