"""``edgekit gallery``: names for what an embedding model sees, kept in a file on the device."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.importer.pictures import read_pictures
from edgekit.model.api import Model, load
from edgekit.pipeline.gallery import Gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("action", choices=("add", "remove", "show"))
    parser.add_argument("bundle", help="the model whose vectors the gallery holds")
    parser.add_argument("gallery", type=Path, help="the file; 'add' creates it")
    parser.add_argument("name", nargs="?", default="", help="for add and remove")
    parser.add_argument("pictures", nargs="*", type=Path, help="for add: files or folders")


def run(arguments: argparse.Namespace) -> Report:
    """Change or show a gallery.

    Raises:
        UsageError: Name or pictures are missing, not wanted, or cannot be read.
        ConfigError: The gallery belongs to another model.
    """
    action, path = arguments.action, arguments.gallery
    if (action == "show") == bool(arguments.name) or (action == "add") != bool(arguments.pictures):
        raise UsageError(
            "want 'add BUNDLE GALLERY NAME PICTURE...', 'remove BUNDLE GALLERY NAME' or 'show BUNDLE GALLERY'"
        )
    with load(arguments.bundle) as model:
        gallery = model.gallery(path) if path.exists() or action != "add" else model.gallery()
        if action == "add":
            _add(model, gallery, arguments.name, arguments.pictures)
        elif action == "remove":
            gallery.remove(arguments.name)
    if action != "show":
        gallery.save(path)
    rows = [f"{name}: {count}" for name, count in sorted(gallery.counts.items())]
    text = "\n".join([f"{path}, of {gallery.model}: vectors by name", *(f"  {row}" for row in rows)])
    return Report({"gallery": str(path), "model": gallery.model, "names": gallery.counts}, text)


def _add(model: Model, gallery: Gallery, name: str, paths: list[Path]) -> None:
    for path in paths:
        for picture in read_pictures(path).pixels:
            gallery.add(name, model.predict(picture).items[0].vector)
