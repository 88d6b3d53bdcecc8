"""Switches to a renewed key and certificate; the supervisor does it first after any crash."""

from pathlib import Path

from edgekit.base.disk import LocalDisk, disk_errors


def put_in_place(state_dir: Path) -> bool:
    """Finish a renewal that got as far as ``next.crt``; returns whether there was one.

    The key goes first: while ``next.crt`` exists, a switch that was interrupted anywhere can be finished.

    Raises:
        StorageError: The disk failed; a retry continues.
    """
    folder, disk = state_dir / "identity", LocalDisk()
    with disk_errors(folder):
        if disk.size(folder / "next.crt") is None:
            return False
        if disk.size(folder / "next.key") is not None:
            disk.rename(folder / "next.key", folder / "device.key")
            disk.sync(folder)
        disk.rename(folder / "next.crt", folder / "device.crt")
        disk.sync(folder)
    return True
