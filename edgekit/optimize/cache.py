"""What was computed once and need not be again: results by the content they were made from.

An entry is a folder, complete or absent: it is filled under another name and renamed, so that a
killed run leaves nothing half made, and the next run goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

_RESULT = "result.json"


def digest_of(*parts: object) -> str:
    """Return the SHA-256 of plain data, in hex; the same for equal data."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def digest_of_files(*paths: Path) -> str:
    """Return the SHA-256 of some files' bytes, in hex; names do not count."""
    found = hashlib.sha256()
    for path in paths:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                one.update(piece)
        found.update(one.digest())
    return found.hexdigest()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of this package's own code: other code may make other files."""
    here = Path(__file__).parent
    return digest_of_files(*sorted(here.rglob("*.py")))


def versions_of(*names: str) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    return {name: version for name in names if (version := _version(name))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


class Cache:
    """Folders by what they were made from, below one folder.

    Args:
        folder: Where the entries lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()  # entries name files to child processes, whatever their folder

    def find(self, kind: str, key: str) -> tuple[Path, Any] | None:
        """Return an entry's folder and its result, or None where there is none."""
        entry = self.folder / kind / key
        try:
            found = msgspec.json.decode((entry / _RESULT).read_bytes())
            os.utime(entry)  # used now: what was used longest ago goes first
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return entry, found

    def make(self, kind: str, key: str, fill: Callable[[Path], Mapping[str, Any]]) -> tuple[Path, Any, bool]:
        """Return an entry, made by ``fill`` where there is none.

        Args:
            kind: What sort of thing it is; a folder's name.
            key: The digest of everything that it is made from.
            fill: Writes files into the folder it is given, and returns the result as plain data.

        Returns:
            The entry's folder, its result, and whether it was there before.
        """
        known = self.find(kind, key)
        if known is not None:
            return *known, True
        parent = self.folder / kind
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f".{key[:16]}-"))
        try:
            result = msgspec.json.encode(dict(fill(scratch)))
            (scratch / _RESULT).write_bytes(result)
            _sync(scratch)
            shutil.rmtree(parent / key, ignore_errors=True)
            scratch.replace(parent / key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return parent / key, msgspec.json.decode(result), False

    def trim(self, most_bytes: int) -> int:
        """Remove the entries that were used longest ago until the rest fits; return how many went."""
        entries = [entry for entry in self.folder.glob("*/*") if (entry / _RESULT).is_file()]
        sizes = {entry: sum(f.stat().st_size for f in entry.rglob("*") if f.is_file()) for entry in entries}
        total, removed = sum(sizes.values()), 0
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime):
            if total <= most_bytes:
                break
            shutil.rmtree(entry, ignore_errors=True)
            total -= sizes[entry]
            removed += 1
        return removed


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
