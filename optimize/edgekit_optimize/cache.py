"""A cache of folders on disk, keyed by a digest of everything that went into their content.

An entry is complete or absent: it is filled under a temporary name and then renamed, so a killed run
leaves no partial entry. Its record holds the hash of each of its files, and a damaged entry is made
again. Several processes may use one cache at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.files import sha256_of, sync_tree
from edgekit.core.errors import StorageError

logger = logging.getLogger(__name__)

_RECORD = "entry.json"


class _Record(msgspec.Struct, frozen=True):
    """An entry's metadata: the SHA-256 of each file by relative path, and the result."""

    files: dict[str, str]
    result: dict[str, Any]


def digest_of(*parts: object) -> str:
    """Return the SHA-256 of plain data, in hex; equal data give equal digests."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def digest_of_files(*paths: Path) -> str:
    """Return the SHA-256 of the files' contents, in hex; their names do not matter."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of this package's code, so that a new version does not reuse old entries."""
    here = Path(__file__).parent
    return digest_of_files(*sorted(here.rglob("*.py")))


@lru_cache(maxsize=16)
def digest_of_module(name: str) -> str:
    """Return a digest of a module's code (for a package, of all its modules) without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module {name}", name=name)
    origin = Path(spec.origin)
    is_package = spec.submodule_search_locations is not None
    return digest_of_files(*(sorted(origin.parent.rglob("*.py")) if is_package else (origin,)))


def versions_of(*names: str) -> dict[str, str]:
    """Return the versions of the named distributions, without those that are not installed."""
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


class Cache:
    """Stores entries by kind and key below one folder.

    Args:
        folder: The cache folder; created with the first entry.
        scratch: Where entries are filled, on the same file system; the cache folder by default.
    """

    def __init__(self, folder: Path, scratch: Path | None = None) -> None:
        self.folder = folder.absolute()  # child processes may have another current folder
        self.scratch = scratch

    def find(self, kind: str, key: str) -> tuple[Path, Any] | None:
        """Return an entry's folder and its result, or None if it is absent or damaged."""
        entry = self.folder / kind / key
        try:
            record = msgspec.json.decode((entry / _RECORD).read_bytes(), type=_Record)
            damaged = [name for name, sha256 in record.files.items() if sha256_of(entry / name) != sha256]
        except FileNotFoundError as cause:
            if entry.is_dir():
                logger.warning("%s lacks %s and is made again", entry, Path(cause.filename).name)
            return None
        except msgspec.DecodeError:
            damaged = [_RECORD]
        if damaged:
            logger.warning("%s is damaged (%s) and is made again", entry, damaged[0])
            return None
        with contextlib.suppress(OSError):  # a read-only cache is still useful
            os.utime(entry)  # ``trim`` removes the least recently used first
        return entry, record.result

    def make(self, kind: str, key: str, fill: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, Any, bool]:
        """Return an entry; ``fill`` creates it if it is absent or damaged.

        Args:
            kind: The kind of entry; used as a folder name.
            key: A digest of everything that its content depends on.
            fill: Writes files into the given folder and returns the result as plain data.

        Returns:
            The entry's folder, its result, and whether it was in the cache already.

        Raises:
            StorageError: The disk is full, or the folder cannot be written.
        """
        known = self.find(kind, key)
        if known is not None:
            return *known, True
        try:
            return self._made(kind, key, fill)
        except OSError as cause:
            raise StorageError(
                f"{self.folder}: cannot store {kind}: {cause.strerror or cause}",
                hint="free some space, or give another folder with --cache",
            ) from cause

    def _made(self, kind: str, key: str, fill: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, Any, bool]:
        parent = self.folder / kind
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self.scratch or parent, prefix=f".{key[:16]}-"))
        try:
            result = dict(fill(scratch))
            files = {path.relative_to(scratch).as_posix(): sha256_of(path) for path in _files(scratch)}
            record = msgspec.json.encode(_Record(files, result))
            (scratch / _RECORD).write_bytes(record)
            sync_tree(scratch)
            self._settle(scratch, kind, key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return parent / key, msgspec.json.decode(record, type=_Record).result, False

    def _settle(self, scratch: Path, kind: str, key: str) -> None:
        """Rename a filled entry to its final name; keep a sound one that another run made meanwhile."""
        entry = self.folder / kind / key
        try:
            scratch.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
            if self.find(kind, key) is None:
                entry.rename(scratch / "damaged")
                scratch.rename(entry)
                shutil.rmtree(entry / "damaged", ignore_errors=True)

    def trim(self, most_bytes: int) -> int:
        """Remove the least recently used entries until the rest fits; return how many were removed."""
        entries = [entry for entry in self.folder.glob("*/[!.]*") if (entry / _RECORD).is_file()]
        sizes = {entry: sum(path.stat().st_size for path in _files(entry)) for entry in entries}
        total, removed = sum(sizes.values()), 0
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime):
            if total <= most_bytes:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]
            removed += 1
        return removed


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
