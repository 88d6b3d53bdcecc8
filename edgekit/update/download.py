"""Fetches blobs to ``blobs/<sha256>``: resumed after a break, checked, and durable.

A blob is written to ``blobs/.partial/<sha256>`` and renamed only when length and hash are right and its
bytes are on disk.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import sha256_of
from edgekit.base.http import HttpError
from edgekit.core.errors import HashMismatchError, LinkError, StorageError
from edgekit.update.contract import Origin

RESERVE_BYTES = 8 << 20
"""Left free on the disk for outbox and logs."""
MAX_FRUITLESS = 4
_SYNC_BYTES = 8 << 20


class Blobs:
    """The blobs below a state folder; ``pause`` waits between tries."""

    def __init__(self, state_dir: Path, web: Origin, pause: Callable[[float], None] = time.sleep) -> None:
        self._folder = state_dir / "blobs"
        self._partial = self._folder / ".partial"
        self._web, self._pause = web, pause
        self._disk = LocalDisk()

    def has(self, sha256: str, size: int) -> bool:
        """Return whether a blob is here; it was checked when it came."""
        return self._disk.size(self._folder / sha256) == size

    def room_bytes(self) -> int:
        """Return how many bytes may be stored."""
        self._make_folders()
        disk = os.statvfs(self._folder)
        return max(0, disk.f_bavail * disk.f_frsize - RESERVE_BYTES)

    def partial_bytes(self, sha256: str) -> int:
        """Return how many bytes of a blob came already."""
        return self._disk.size(self._partial / sha256) or 0

    def put(self, sha256: str, data: bytes) -> None:
        """Store bytes whose hash was checked."""
        self._make_folders()
        draft = self._partial / sha256
        with disk_errors(draft):
            self._disk.write(draft, data)
            self._place(draft, sha256)

    def fetch(self, url: str, sha256: str, size: int, on_bytes: Callable[[int], None]) -> None:
        """Fetch one blob of ``size`` bytes, resuming an earlier try.

        ``on_bytes`` is called with each number of new bytes.

        Raises:
            HashMismatchError: The server's bytes differ, or are more.
            LinkError: It broke off too often without a byte of progress.
            StorageError: The disk is full or broken; what came is kept.
        """
        if self.has(sha256, size):
            return
        self._make_folders()
        draft = self._partial / sha256
        was_begun = self.partial_bytes(sha256) > 0
        with disk_errors(draft):
            self._grow(draft, url, size, on_bytes)
            while sha256_of(draft) != sha256:
                draft.unlink()
                if not was_begun:
                    raise HashMismatchError(f"{url} is not the file that was signed: its hash differs")
                was_begun = False  # the earlier part may have been damaged: once more, from the beginning
                self._grow(draft, url, size, on_bytes)
            self._place(draft, sha256)

    def _grow(self, draft: Path, url: str, size: int, on_bytes: Callable[[int], None]) -> None:
        fruitless = 0
        with draft.open("ab") as file:
            while (have := file.seek(0, os.SEEK_END)) < size:
                broken = self._try(file, url, size, on_bytes)
                if file.seek(0, os.SEEK_END) > have:
                    fruitless = 0
                    continue
                fruitless += 1
                if fruitless >= MAX_FRUITLESS:
                    raise broken or LinkError(f"{url}: ends {size - have} bytes too early")
                self._pause(min(2.0**fruitless, 10.0) / 4)
            if have > size:  # left by an earlier run: not this blob, so the hash will differ
                file.truncate(size)
            file.flush()
            os.fsync(file.fileno())

    def _try(self, file: BinaryIO, url: str, size: int, on_bytes: Callable[[int], None]) -> LinkError | None:
        """Append the server's bytes; returns the error that broke it off, where a retry may help."""
        try:
            self._append(file, url, size, on_bytes)
        except HttpError as cause:
            if cause.status in (206, 416):  # the server cannot resume: restart
                file.truncate(0)
            return cause
        except LinkError as cause:
            if not cause.retryable:
                raise
            return cause
        return None

    def _append(self, file: BinaryIO, url: str, size: int, on_bytes: Callable[[int], None]) -> None:
        unsynced = 0
        for offset, piece in self._web.read(url, file.tell()):
            if offset != file.tell():  # the server does not support ranges: restart
                file.truncate(offset)
                file.seek(offset)
            if offset + len(piece) > size:
                file.truncate(0)
                file.flush()
                raise HashMismatchError(f"{url} is longer than the {size} bytes that were signed")
            file.write(piece)
            on_bytes(len(piece))
            unsynced += len(piece)
            if unsynced >= _SYNC_BYTES:
                file.flush()
                os.fdatasync(file.fileno())
                unsynced = 0
        file.flush()

    def _place(self, draft: Path, sha256: str) -> None:
        self._disk.rename(draft, self._folder / sha256)
        self._disk.sync(self._folder)

    def _make_folders(self) -> None:
        with disk_errors(self._partial):
            self._disk.make_folder(self._partial)

    def require_room(self, size: int, what: str) -> None:
        """Check for room before anything is fetched.

        Raises:
            StorageError: There is not enough.
        """
        room = self.room_bytes()
        if size > room:
            raise StorageError(
                f"{what} needs {size} bytes, {room} are free below {self._folder}",
                hint="free some space; 8 MiB stay in reserve",
            )
