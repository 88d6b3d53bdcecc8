"""Checks a model's files against the hashes in its manifest, hashing each file only once.

A file is hashed again if its size, times or inode changed. The cache may be lost at any time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgekit.base.files import write_durably
from edgekit.base.paths import cache_dir
from edgekit.core.errors import BundleError, HashMismatchError
from edgekit.core.spec import VariantFile

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 1000
_PIECE_BYTES = 1 << 20
_Mark = tuple[int, int, int, int]


class _Verified(msgspec.Struct, frozen=True):
    """A file's size, times and inode when it was hashed, and its SHA-256."""

    mark: _Mark
    sha256: str


def check_files(root: Path, files: Iterable[VariantFile], what: str) -> None:
    """Raise unless files have the hashes that a manifest lists; unchanged files are not read again.

    Raises:
        HashMismatchError: A file differs from the one listed.
        BundleError: A file cannot be read.
    """
    known = _load()
    new: dict[str, _Verified] = {}
    for file in files:
        path = (root / file.path).resolve()
        try:
            status = path.stat()
            mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            verified = known.get(str(path))
            if verified is None or verified.mark != mark:
                verified = new[str(path)] = _Verified(mark, _sha256(path))
        except OSError as cause:
            raise BundleError(f"{what}: {file.path} cannot be read: {cause.strerror}") from cause
        if verified.sha256 != file.sha256:
            raise HashMismatchError(
                f"{what}: {file.path} is not the file that bundle.json lists: want sha256"
                f" {file.sha256[:16]}…, got {verified.sha256[:16]}…",
                hint="copy or install the bundle again",
            )
    if new:
        _save(known | new)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _load() -> dict[str, _Verified]:
    try:
        return msgspec.json.decode((cache_dir() / "verified.json").read_bytes(), type=dict[str, _Verified])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as cause:
        logger.warning("verified hashes are not used, files are read again: %s", cause)
        return {}


def _save(verified: dict[str, _Verified]) -> None:
    """Store the newest hashes; if processes save at once, the last wins and the others hash again."""
    kept = dict(list(verified.items())[-MAX_REMEMBERED:])
    try:
        write_durably(cache_dir() / "verified.json", msgspec.json.encode(kept))
    except OSError as cause:
        logger.warning("verified hashes cannot be stored, files will be read again: %s", cause)
