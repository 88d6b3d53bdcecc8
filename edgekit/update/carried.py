"""A bundle that was carried here in a file, with what makes it trusted: read as if it came from the fleet.

``edgekit-fleet export`` writes it: an ``.ekb`` with the members ``trust/desired.json``, the device's signed
desired state, and ``trust/metadata/*.json``, TUF's files under their names at the fleet. Nothing in it is
believed; the updater checks the same signatures as over a link.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import copy_durably, replace_file
from edgekit.base.http import HttpError
from edgekit.core.archive import TRUST, Member, pieces, read_index, read_manifest
from edgekit.core.errors import BundleError, HashMismatchError, SignatureError
from edgekit.core.wire import MAX_DESIRED_BYTES
from edgekit.update.contract import Enrolment, carried_folder

BUNDLE = "bundle.ekb"
DESIRED = f"{TRUST}desired.json"
METADATA = f"{TRUST}metadata/"


def carried_desired(path: Path) -> str:
    """Return the text of the desired state that a file carries; it is not verified.

    Raises:
        SignatureError: It carries none, so nobody has directed this device to it.
        BundleError: It is not a readable bundle.
    """
    with _opened(path) as stream:
        member = read_index(stream, str(path)).get(DESIRED)
        if member is None:
            raise SignatureError(
                f"{path} carries no desired state and no signatures",
                hint="on the fleet: edgekit-fleet export BUNDLE --device ID -o FILE.ekb",
            )
        if member.size > MAX_DESIRED_BYTES:
            raise BundleError(f"{path}: {DESIRED} has {member.size} bytes, at most {MAX_DESIRED_BYTES}")
        try:
            return b"".join(pieces(stream, member)).decode()
        except UnicodeDecodeError as cause:
            raise BundleError(f"{path}: {DESIRED} is not text") from cause


def bring(path: Path, state_dir: Path) -> None:
    """Copy a carried file to where the agent takes it from: it may not read a stick or a home folder.

    The copy belongs to the state folder's owner. ``desired.json`` is written last, beside it.

    Raises:
        SignatureError: The file carries no desired state.
        BundleError: It is not a readable bundle.
        StorageError: It cannot be copied.
    """
    desired = carried_desired(path)
    folder, disk = carried_folder(state_dir), LocalDisk()
    with disk_errors(folder):
        owner = state_dir.stat()
        disk.remove(folder)
        disk.make_folder(folder)
        copy_durably(path, folder / BUNDLE)
        replace_file(disk, folder / "desired.json", desired.encode())
        if os.geteuid() == 0:
            for made in (folder, folder / BUNDLE, folder / "desired.json"):
                os.chown(made, owner.st_uid, owner.st_gid)


class Carried:
    """Answers the updater's requests from a file; see ``base.http.Web`` for the two methods.

    Raises:
        BundleError: The file is not a bundle.
    """

    def __init__(self, path: Path, identity: Enrolment) -> None:
        self._path = path
        with _opened(path) as stream:
            index = read_index(stream, str(path))
            manifest, data = read_manifest(stream, index, str(path))
        targets, metadata = identity.targets_url.rstrip("/"), identity.metadata_url.rstrip("/")
        own = f"{manifest.model}/{manifest.version}/{hashlib.sha256(data).hexdigest()}.bundle.json"
        self._members: dict[str, Member] = {f"{targets}/{own}": index["bundle.json"]}
        for file in manifest.every_file():
            self._members[f"{targets}/blobs/{file.sha256}"] = index[file.path]
        for name in index:
            if name.startswith(METADATA):
                self._members[f"{metadata}/{name.removeprefix(METADATA)}"] = index[name]

    def get(self, url: str, max_bytes: int) -> bytes:
        """Return the content that the fleet has at a URL.

        Raises:
            HttpError: The file does not carry it (404).
            HashMismatchError: It is longer than ``max_bytes``.
        """
        if self._member(url).size > max_bytes:
            raise HashMismatchError(f"{url}: longer than {max_bytes} bytes")
        return b"".join(piece for _, piece in self.read(url, 0))

    def read(self, url: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) from ``start`` on.

        Raises:
            HttpError: The file does not carry it (404).
        """
        member, offset = self._member(url), start
        rest = Member(member.offset + start, max(0, member.size - start))
        with _opened(self._path) as stream:
            for piece in pieces(stream, rest):
                yield offset, piece
                offset += len(piece)

    def _member(self, url: str) -> Member:
        if url not in self._members:
            raise HttpError(404, f"{self._path} does not carry {url}")
        return self._members[url]


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as cause:
        raise BundleError(f"{path}: {cause.strerror}") from cause
