"""``edgekit-fleet release``: make a release of the agent, to be published and rolled out as a model is."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.core.spec import AGENT, NAME, VERSION
from edgekit_fleet.registry.bundle import MANIFEST, write_archive
from edgekit_fleet.registry.release import make_release, read_wheel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("wheels", type=Path, nargs="+", metavar="WHEEL", help="edgekit-runtime's, and more")
    parser.add_argument(
        "--pair", action="append", default=[], metavar="MODEL=VERSION", help="a model that moves with it"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the .ekb file")


def run(arguments: argparse.Namespace) -> Report:
    """Write the release; the same wheels give the same bytes.

    Raises:
        ModelError: A file is not a wheel, or the agent's own is missing.
        UsageError: A pair is not ``MODEL=VERSION``.
    """
    pairs = dict(_pair(text) for text in arguments.pair)
    wheels = sorted((read_wheel(path) for path in arguments.wheels), key=lambda wheel: wheel.path.name)
    manifest = make_release(wheels, pairs)
    contents = {wheel.file.path: wheel.data for wheel in wheels}
    listed = [(file.path, contents[file.path]) for file in manifest.every_file()]
    write_archive(arguments.out, [(MANIFEST, msgspec.json.encode(manifest)), *listed])
    variants = [variant.id for variant in manifest.variants]
    document = {"model": AGENT, "version": manifest.version, "variants": variants, "file": str(arguments.out)}
    text = (
        f"{arguments.out} is agent {manifest.version} for {', '.join(variants)}; next: edgekit-fleet publish"
    )
    return Report(document, text)


def _pair(text: str) -> tuple[str, str]:
    model, _, version = text.partition("=")
    if not NAME.fullmatch(model) or not VERSION.fullmatch(version):
        raise UsageError(f"--pair: want MODEL=VERSION, got {text!r}")
    return model, version
