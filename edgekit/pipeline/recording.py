"""Video files of fragments: never over another file, whole after a kill, within a quota."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgekit.core.errors import StorageError
from edgekit.pipeline.fragments import MARK, Fragment

logger = logging.getLogger(__name__)

_HEAD_BYTES = 4096
_BOX = 8  # a box begins with its size and its type


class Recording:
    """One file, from a keyframe on. Each fragment is with the system at once: a kill loses none of them.

    Args:
        path: Its file; where there is one already, ``-2``, ``-3`` and so on are put behind the name.
        head: What stands before the fragments.

    Raises:
        StorageError: It cannot be written.
    """

    def __init__(self, path: Path, head: bytes) -> None:
        self.size = 0
        self.begins: int | None = None
        """The time of its first fragment, in ticks."""
        with _checked(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                self.path = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
                with contextlib.suppress(FileExistsError):
                    self._file = self.path.open("xb", buffering=0)
                    break
        self._write(head)

    def add(self, fragment: Fragment) -> None:
        """Write a fragment; the first one must be a keyframe.

        Raises:
            StorageError: The disk is full, for instance; the file is whole up to the fragment before.
        """
        if self.begins is None:
            self.begins = fragment.at
        self._write(fragment.moved(self.begins))

    def _write(self, data: bytes) -> None:
        """Write boxes, the first one's size and type last: until then players skip what is there.

        A kill may come in the middle of a write, and FFmpeg opens no file that ends within a ``moof``.
        """
        with _checked(self.path):
            file = self._file.fileno()
            written = os.pwrite(file, data[_BOX:], self.size + _BOX)
            if written == len(data) - _BOX:
                written += os.pwrite(file, data[:_BOX], self.size)
            if written != len(data):  # the disk is full
                self._file.truncate(self.size)
                raise StorageError(f"{self.path}: only {written} of {len(data)} bytes could be written")
        self.size += len(data)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise StorageError(f"{path}: cannot be written: {cause.strerror}") from cause


def keep_quota(paths: Iterable[Path], max_bytes: float, current: Path | None) -> None:
    """Delete the oldest of some files, with what has the same name and another suffix, until the rest fits.

    Args:
        paths: The files; one that no ``Recording`` wrote is not counted and never deleted.
        max_bytes: How many they may have in all.
        current: A file that stays whatever its age.
    """
    files = []
    for path in paths:
        with contextlib.suppress(OSError):  # somebody else deleted it
            if _is_ours(path):
                status = path.stat()
                files.append((status.st_mtime_ns, path, status.st_size))
    files.sort()
    left, deleted = sum(size for _, _, size in files), 0
    for _, path, size in files:
        if left <= max_bytes:
            break
        if path != current:
            for part in (path, path.with_suffix(".json")):
                part.unlink(missing_ok=True)
            left, deleted = left - size, deleted + 1
    if deleted:
        logger.info("deleted %d old videos, to keep the quota of %.0f MB", deleted, max_bytes / 1e6)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK.encode() in file.read(_HEAD_BYTES)
