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

from edgekit.core.errors import BundleError, HashMismatchError, StorageError
from edgekit.core.spec import MAX_FILE_BYTES
from edgekit_fleet.registry.keys import sync_folder

SHA256 = re.compile(r"[0-9a-f]{64}")
KEEP_FREE_BYTES = 256 << 20
"""Room that uploads leave on the disk for the database."""
_ABANDONED_S = 24 * 3600
_CHUNK_BYTES = 1 << 20


class Upload:
    """One file on its way in: ``write`` its bytes, then ``finish`` it, or ``abandon`` it.

    Args:
        final: Where the file goes, named after its SHA-256.
        temporary: Where it grows.
        size: How many bytes it has, as the manifest says.
    """

    def __init__(self, final: Path, temporary: Path, size: int) -> None:
        self._final, self._temporary, self._size = final, temporary, size
        self._digest = hashlib.sha256()
        self._written = 0
        self._file: BinaryIO = temporary.open("xb")

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            HashMismatchError: More came than were announced.
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
        """Check the hash and give the file its name, durably.

        Raises:
            HashMismatchError: The bytes are not those of the hash.
            StorageError: The disk is full or broken.
        """
        if self._written != self._size:
            raise HashMismatchError(
                f"{self._final.name}: {self._written} bytes came of {self._size}", hint="send it again"
            )
        if (found := self._digest.hexdigest()) != self._final.name:
            raise HashMismatchError(f"{self._final.name}: the bytes have SHA-256 {found}")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._final)
            sync_folder(self._final.parent)
        except OSError as cause:
            raise StorageError(f"{self._final}: {cause.strerror}") from cause

    def abandon(self) -> None:
        """Forget what came; harmless after ``finish``."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class Blobs:
    """A folder of files named by their SHA-256.

    Args:
        folder: Made when missing.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise StorageError(f"{folder}: {cause.strerror}") from cause

    def path(self, sha256: str) -> Path:
        """Return where a blob lies, or would.

        Raises:
            BundleError: It is not a SHA-256 in hexadecimal.
        """
        if not SHA256.fullmatch(sha256):
            raise BundleError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal")
        return self.folder / sha256

    def size(self, sha256: str) -> int | None:
        """Return how many bytes a blob has, None where it is not there."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def receive(self, sha256: str, size: int) -> Upload:
        """Begin to take a file in.

        Raises:
            BundleError: The hash is not one, or the file is larger than a bundle's may be.
            StorageError: The disk has no room for it.
        """
        final = self.path(sha256)
        if not 0 <= size <= MAX_FILE_BYTES:
            raise BundleError(f"{sha256}: {size} bytes, a file has at most {MAX_FILE_BYTES}")
        if shutil.disk_usage(self.folder).free < size + KEEP_FREE_BYTES:
            raise StorageError(f"{self.folder}: no room for {size} bytes", hint="free some disk space")
        return Upload(final, self._incoming / f"{sha256}.{secrets.token_hex(6)}", size)

    def put(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Take a file in; one that is there already is left alone.

        Raises:
            HashMismatchError: The bytes are not those of the hash or size.
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
        """Say whether a blob is there with the right size and content; reads all of it."""
        if self.size(sha256) != size:
            return False
        digest = hashlib.sha256()
        with self.path(sha256).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == sha256

    def discard(self, sha256: str) -> None:
        """Delete a blob that nothing lists any more; one that is not there is no error.

        A publication that just found it here is refused for the missing file, and sends it again.
        """
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete uploads that nobody has continued for a day."""
        for path in self._incoming.iterdir():
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)
