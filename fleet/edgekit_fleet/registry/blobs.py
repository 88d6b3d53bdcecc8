"""Files by the hash of their content, on disk: each is whole, checked and durable, or not there."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from edgekit.base.disk import sync_path
from edgekit.core.errors import BundleError, HashMismatchError, StorageError
from edgekit.core.spec import MAX_FILE_BYTES

SHA256 = re.compile(r"[0-9a-f]{64}")
KEEP_FREE_BYTES = 256 << 20
"""Free space that uploads leave on the disk for the database."""
_ABANDONED_S = 24 * 3600
_CHUNK_BYTES = 1 << 20


class Upload:
    """One file that is being received: ``write`` its bytes, then ``finish`` it, or ``abandon`` it.

    Args:
        final: The path of the complete file; its name is the SHA-256.
        temporary: The path while it is incomplete.
        size: Its size in bytes by the manifest.
    """

    def __init__(self, final: Path, temporary: Path, size: int) -> None:
        self._final, self._temporary, self._size = final, temporary, size
        self._digest = hashlib.sha256()
        self._written = 0
        self._file: BinaryIO = temporary.open("xb")

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            HashMismatchError: There are more bytes than announced.
            StorageError: The disk is full or broken.
        """
        self._written += len(data)
        if self._written > self._size:
            raise HashMismatchError(f"{self._final.name}: more than the {self._size} bytes announced")
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as cause:
            raise StorageError(f"{self._temporary}: {cause.strerror}") from cause

    def finish(self) -> None:
        """Check the hash and rename the file durably.

        Raises:
            HashMismatchError: The size or the hash is wrong.
            StorageError: The disk is full or broken.
        """
        if self._written != self._size:
            raise HashMismatchError(
                f"{self._final.name}: {self._written} of {self._size} bytes arrived", hint="send it again"
            )
        if (actual := self._digest.hexdigest()) != self._final.name:
            raise HashMismatchError(f"{self._final.name}: the bytes have SHA-256 {actual}")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._final)
            sync_path(self._final.parent)
        except OSError as cause:
            raise StorageError(f"{self._final}: {cause.strerror}") from cause

    def abandon(self) -> None:
        """Delete the incomplete file; harmless after ``finish``."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class Blobs:
    """A folder of files named by their SHA-256.

    Args:
        folder: The folder; created if it is missing.

    Raises:
        StorageError: The folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise StorageError(f"{folder}: {cause.strerror}") from cause

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, whether it exists or not.

        Raises:
            BundleError: It is not a SHA-256 in hexadecimal.
        """
        if not SHA256.fullmatch(sha256):
            raise BundleError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal")
        return self.folder / sha256

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob in bytes; None if there is no such blob."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def receive(self, sha256: str, size: int) -> Upload:
        """Begin to receive a file.

        Raises:
            BundleError: The hash is not valid, or the file is larger than a bundle's may be.
            StorageError: There is not enough space on the disk.
        """
        final = self.path(sha256)
        if not 0 <= size <= MAX_FILE_BYTES:
            raise BundleError(f"{sha256}: {size} bytes, a file has at most {MAX_FILE_BYTES}")
        if shutil.disk_usage(self.folder).free < size + KEEP_FREE_BYTES:
            raise StorageError(f"{self.folder}: no room for {size} bytes", hint="free some disk space")
        return Upload(final, self._incoming / f"{sha256}.{secrets.token_hex(6)}", size)

    def put(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store a file, unless it is stored already.

        Raises:
            HashMismatchError: The size or the hash is wrong.
            BundleError: See ``receive``.
            StorageError: The disk is full or broken.
        """
        if self.size(sha256) == size:
            return
        upload = self.receive(sha256, size)
        try:
            for chunk in chunks:
                upload.write(chunk)
            upload.finish()
        finally:
            upload.abandon()

    def is_whole(self, sha256: str, size: int) -> bool:
        """Say whether a blob exists with the right size and content; reads all of it."""
        if self.size(sha256) != size:
            return False
        digest = hashlib.sha256()
        with self.path(sha256).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == sha256

    def discard(self, sha256: str) -> None:
        """Delete a blob that no bundle lists any longer; a missing blob is no error.

        A publication that relied on it at the same time is refused, and uploads it again.
        """
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete uploads that were abandoned more than a day ago."""
        for path in self._incoming.iterdir():
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)
