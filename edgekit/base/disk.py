"""The file operations of slots and the update machine, in one class so that a test can cut its power."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgekit.core.errors import StorageError


class LocalDisk:
    """The real disk; paths are absolute, and every method may raise ``OSError``.

    ``mode``: permissions of new files, less the umask.
    """

    def __init__(self, mode: int = 0o666) -> None:
        self._mode = mode

    def read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None where there is no file."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file and sync its content, not its name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, self._mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; a symbolic link where the file system has no hard links."""
        try:
            os.link(source, target)
        except FileExistsError:
            target.unlink()
            self.link(source, target)
        except PermissionError:  # FAT and some network file systems
            target.symlink_to(os.path.relpath(source, target.parent))

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder, replacing a file of that name."""
        source.replace(target)

    def sync(self, folder: Path) -> None:
        """Make the names within a folder survive a power cut."""
        sync_path(folder)

    def make_folder(self, folder: Path) -> None:
        """Create a folder and those above it."""
        folder.mkdir(parents=True, exist_ok=True)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with its content, if there is one."""
        if path.is_dir() and not path.is_symlink():
            import shutil  # with its compressors, 0.5 MB that a supervisor needs after an update only

            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def size(self, path: Path) -> int | None:
        """Return a file's size in bytes; None where there is no file."""
        try:
            return path.stat().st_size if path.is_file() else None
        except FileNotFoundError:
            return None

    def names(self, folder: Path) -> list[str]:
        """Return the sorted names in a folder; empty where there is no folder."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []


def sync_path(path: Path) -> None:
    """Make a file's content, or the names within a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise ``StorageError``, which names ``path``, for an ``OSError`` within.

    Raises:
        StorageError: The disk is full, read-only or broken.
    """
    try:
        yield
    except OSError as cause:
        hint = "free some space, or check that the disk is writable"
        raise StorageError(f"{path}: {cause.strerror or cause}", hint=hint) from cause
