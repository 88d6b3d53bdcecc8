"""Write a file so that a power cut leaves the old one or the new one, never a part."""

import os
from pathlib import Path

from edgekit.base.disk import LocalDisk

_DISK = LocalDisk()


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file that several processes may replace at once; the last one wins, whole.

    Raises:
        OSError: The disk is full, read-only or broken; the old file is as it was.
    """
    _DISK.make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _DISK.write(temporary, data)
        _DISK.rename(temporary, path)
    except OSError:
        _DISK.remove(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within a folder survive a power cut."""
    _DISK.sync(folder)
