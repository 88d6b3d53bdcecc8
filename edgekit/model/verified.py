"""Checks a model's files against the hashes in its manifest, hashing each file only once.

A file is hashed again if its size, times or inode changed. The cache may be lost at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgekit.base.files import sha256_of
from edgekit.base.kept import keep, read_kept
from edgekit.base.paths import cache_dir
from edgekit.core.errors import BundleError, HashMismatchError
from edgekit.core.spec import VariantFile

MAX_REMEMBERED = 1000
_LOSS = "files are hashed again"
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
    cache = cache_dir() / "verified.json"
    known = read_kept(cache, dict[str, _Verified], {}, _LOSS)
    new: dict[str, _Verified] = {}
    for file in files:
        path = (root / file.path).resolve()
        try:
            status = path.stat()
            mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            verified = known.get(str(path))
            if verified is None or verified.mark != mark:
                verified = new[str(path)] = _Verified(mark, sha256_of(path))
        except OSError as cause:
            raise BundleError(f"{what}: {file.path} cannot be read: {cause.strerror}") from cause
        if verified.sha256 != file.sha256:
            raise HashMismatchError(
                f"{what}: {file.path} is not the file that bundle.json lists: want sha256"
                f" {file.sha256[:16]}…, got {verified.sha256[:16]}…",
                hint="copy or install the bundle again",
            )
    if new:  # processes that save at once lose all but the last one's, and hash again
        keep(cache, dict([*known.items(), *new.items()][-MAX_REMEMBERED:]), _LOSS)
