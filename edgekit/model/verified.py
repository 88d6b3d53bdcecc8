"""Whether a model's file is still the one its manifest lists, remembered so that it costs a hash only once.

A file is hashed again when its size, times or inode changed. The memory is in the cache folder and may be
lost at any time.
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
    """A file as it was when it was hashed, and its SHA-256."""

    mark: _Mark
    sha256: str


def check_files(root: Path, files: Iterable[VariantFile], what: str) -> None:
    """Compare files with the hashes that a manifest lists; files that did not change are not read.

    Args:
        root: The folder that paths are relative to.
        files: The manifest's rows.
        what: The bundle, for messages.

    Raises:
        HashMismatchError: A file is not the one listed.
        BundleError: A file cannot be read.
    """
    known = _load()
    new: dict[str, _Verified] = {}
    for file in files:
        path = (root / file.path).resolve()
        try:
            status = path.stat()
            mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            found = known.get(str(path))
            if found is None or found.mark != mark:
                found = new[str(path)] = _Verified(mark, _sha256(path))
        except OSError as cause:
            raise BundleError(f"{what}: {file.path} cannot be read: {cause.strerror}") from cause
        if found.sha256 != file.sha256:
            raise HashMismatchError(
                f"{what}: {file.path} is not the file that bundle.json lists: want sha256"
                f" {file.sha256[:16]}…, got {found.sha256[:16]}…",
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
    """Keep the newest; of processes that save at once the last one wins, and the other hashes again."""
    kept = dict(list(verified.items())[-MAX_REMEMBERED:])
    try:
        write_durably(cache_dir() / "verified.json", msgspec.json.encode(kept))
    except OSError as cause:
        logger.warning("verified hashes cannot be kept, files will be read again: %s", cause)
