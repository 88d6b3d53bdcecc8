"""``edgekit zoo``: list the model zoo, build one of its bundles, fetch one of its recordings."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.base.files import sha256_of
from edgekit.base.paths import cache_dir
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import parse_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action and its flags."""
    parser.add_argument("action", nargs="?", choices=("list", "build", "recording"), default="list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model, or the recording")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="PATH", help="the bundle's folder; the recording's file"
    )
    parser.add_argument("--ekb", action="store_true", help="build one .ekb file instead of a folder")
    parser.add_argument("--version", help="the bundle's version; the recipe's by default")
    parser.add_argument("--variants", metavar="ID,...", help="build only these; all by default")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep downloaded packages here")


def run(arguments: argparse.Namespace) -> Report:
    """Run one action: list, build or fetch.

    Raises:
        UsageError: There is no such model, variant or recording, or NAME or --out is missing.
        ConfigError: A library that building needs is not installed.
        LinkError: A package is not in the cache and cannot be fetched.
        HashMismatchError: A package is not the pinned one.
    """
    if arguments.action == "list":
        return _list()
    if arguments.name is None or arguments.out is None:
        raise UsageError(
            f"zoo {arguments.action}: want a NAME and --out",
            hint=f"edgekit zoo {arguments.action} NAME -o PATH; edgekit zoo lists the names",
        )
    return _build(arguments) if arguments.action == "build" else _recording(arguments)


def _list() -> Report:
    from edgekit_optimize.zoo.recipe import recipes
    from edgekit_optimize.zoo.recordings import recordings

    models: list[dict[str, Any]] = [
        {
            "name": name,
            "title": entry.title,
            "version": entry.version,
            "task": entry.task,
            "license": entry.license,
            "variants": [variant.id for variant in entry.variant],
            "needs": list(entry.needs()),
        }
        for name, entry in recipes().items()
    ]
    ready = _packaged()
    kept = [
        {"name": name, "title": entry.title, "license": entry.license, "needs": str(entry.package)}
        for name, entry in recordings().items()
    ]
    lines = []
    for model in models:
        lines += [
            f"{model['name']} {model['version']}  ({model['task']}, {model['license']})",
            f"  {model['title']}",
            f"  variants: {', '.join(model['variants'])}",
            f"  needs: {', '.join(model['needs']) or 'nothing but its recordings'}",
        ]
    for model in ready:
        lines += [
            f"{model['name']} {model['version']}  (imported, {model['license']})",
            f"  {model['title']}",
            f"  needs: {', '.join(model['needs'])}",
        ]
    lines += ["recordings:", *(f"  {item['name']}: {item['title']}" for item in kept)]
    return Report({"models": models, "packaged": ready, "recordings": kept}, "\n".join(lines))


def _packaged() -> list[dict[str, Any]]:
    """Return the models that a build imports, by name."""
    from edgekit_optimize.zoo.packaged import packaged

    return [
        {
            "name": name,
            "title": entry.title,
            "version": entry.version,
            "license": entry.license,
            "needs": list(entry.needs()),
        }
        for name, entry in packaged().items()
    ]


def _build(arguments: argparse.Namespace) -> Report:
    try:
        built = _built(arguments)
    except ImportError as cause:
        raise _incomplete(cause) from cause
    document: dict[str, Any] = {"bundle": str(built), "sha256": None, "bytes": _size(built)}
    if built.is_dir():
        manifest = parse_manifest((built / "bundle.json").read_bytes())
        document["variants"] = [variant.id for variant in manifest.variants]
        document["sha256"] = sha256_of(built / "bundle.json")
    else:
        document["sha256"] = sha256_of(built)
    return Report(document, f"{built}: {document['bytes'] / 1e6:.1f} MB\nnext: edgekit verify {built}")


def _built(arguments: argparse.Namespace) -> Path:
    from edgekit_optimize.zoo.build import build
    from edgekit_optimize.zoo.packaged import build_packaged, packaged

    name, out, cache = arguments.name, arguments.out, arguments.cache or cache_dir()
    variants = arguments.variants.split(",") if arguments.variants else None
    if name not in packaged():
        return build(name, out, version=arguments.version, variants=variants, cache=cache, ekb=arguments.ekb)
    if variants:
        raise UsageError(
            f"{name}: --variants chooses from a recipe's variants",
            hint="this model is imported, with every runtime here that answers rightly",
        )
    return build_packaged(name, out, version=arguments.version, cache=cache, ekb=arguments.ekb)


def _recording(arguments: argparse.Namespace) -> Report:
    from edgekit_optimize.zoo.recordings import recording

    source = recording(arguments.name, arguments.cache or cache_dir())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, arguments.out)
    return Report(
        {"recording": str(arguments.out), "sha256": sha256_of(source), "bytes": _size(source)},
        f"{arguments.out}: {_size(source) / 1e6:.1f} MB",
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _incomplete(cause: ImportError) -> ConfigError:
    return ConfigError(
        f"building a bundle needs {cause.name}, which is not installed",
        hint="pip install edgekit-optimize",
    )
