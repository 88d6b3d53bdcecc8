"""Files that a power cut leaves old or new, never partial; and their hash."""

import hashlib
import os
import threading
from pathlib import Path

from edgekit.base.disk import LocalDisk, disk_errors, sync_path

_PIECE_BYTES = 1 << 20


def replace_file(disk: LocalDisk, path: Path, data: bytes) -> None:
    """Replace a file that only one process at a time writes.

    Raises:
        StorageError: The disk is full, read-only or broken; the old file is unchanged.
    """
    with disk_errors(path):
        _replace(disk, path, path.with_name(f".{path.name}.new"), data)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file that several processes and threads may write at once; the last one wins, whole.

    Its folder is made. ``mode``: permissions, less the umask, from the first byte on.

    Raises:
        OSError: The disk is full, read-only or broken; the old file is unchanged.
    """
    _replace(LocalDisk(mode), path, _beside(path), data)


def copy_durably(source: Path, target: Path) -> None:
    """Copy a file as ``write_durably`` writes; the caller syncs the folder.

    Raises:
        OSError: The source cannot be read, or the target not written.
    """
    temporary = _beside(target)
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            while piece := reader.read(_PIECE_BYTES):
                writer.write(piece)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: Path, disk: LocalDisk | None = None) -> bytes | None:
    """Return a file's bytes; None where there is no file.

    Raises:
        StorageError: It cannot be read.
    """
    with disk_errors(path):
        return (disk or LocalDisk()).read(path)


def sync_tree(folder: Path) -> None:
    """Make a folder and all below it survive a power cut, before it is renamed.

    Raises:
        OSError: The disk is full or broken.
    """
    for path in (*(path for path in folder.rglob("*") if not path.is_symlink()), folder):
        sync_path(path)


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of files' contents, one after the other, in hexadecimal.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.new")


def _replace(disk: LocalDisk, path: Path, temporary: Path, data: bytes) -> None:
    disk.make_folder(path.parent)
    try:
        disk.write(temporary, data)
        disk.rename(temporary, path)
    except OSError:
        disk.remove(temporary)
        raise
    disk.sync(path.parent)
