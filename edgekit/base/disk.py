"""The few things that slots and the update machine do to a disk, so that a test can cut its power.

The rule of all callers: a name that must survive a power cut is written beside its place, synced,
renamed, and then its folder is synced.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from edgekit.core.errors import StorageError


class Disk(Protocol):
    """A disk; paths are absolute. Every method may raise ``OSError``."""

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None where there is none."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file and sync its content (not its name)."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; where the file system cannot, make a symbolic link."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder, replacing a file of that name."""

    def sync(self, folder: Path) -> None:
        """Make the names within a folder survive a power cut."""

    def make_folder(self, folder: Path) -> None:
        """Create a folder and those above it."""

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder and all within; nothing happens where there is none."""

    def size(self, path: Path) -> int | None:
        """Return a file's bytes; None where there is none."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; empty where there is none."""


class LocalDisk:
    """The real one.

    Args:
        mode: The permissions of files that it makes, less the process's mask.
    """

    def __init__(self, mode: int = 0o666) -> None:
        self._mode = mode

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file and sync its content (not its name)."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self._mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; where the file system cannot, make a symbolic link."""
        try:
            os.link(source, target)
        except FileExistsError:
            target.unlink()
            self.link(source, target)
        except PermissionError:  # FAT and some network file systems have no hard links
            target.symlink_to(os.path.relpath(source, target.parent))

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder, replacing a file of that name."""
        source.replace(target)

    def sync(self, folder: Path) -> None:
        """Make the names within a folder survive a power cut."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, folder: Path) -> None:
        """Create a folder and those above it."""
        folder.mkdir(parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder and all within; nothing happens where there is none."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def size(self, path: Path) -> int | None:
        """Return a file's bytes; None where there is none."""
        try:
            return path.stat().st_size if path.is_file() else None
        except FileNotFoundError:
            return None

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; empty where there is none."""
        try:
            return sorted(found.name for found in folder.iterdir())
        except FileNotFoundError:
            return []


def storage_error(path: Path, cause: OSError) -> StorageError:
    """Return the error that tells of a disk that failed."""
    return StorageError(
        f"{path}: {cause.strerror or cause}", hint="free some space, or check that the disk is writable"
    )
