"""Reads a publisher's bundle, a folder or one tar file, and checks every byte of it.

Every file in the bundle is listed in its manifest with size and SHA-256, and every listed file is in the
bundle. The manifest's hash, which gets signed, therefore covers every byte.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgekit.core import archive
from edgekit.core.errors import BundleError, EdgekitError, HashMismatchError
from edgekit.core.spec import MAX_MANIFEST_BYTES, Manifest, VariantFile, parse_manifest

MANIFEST = "bundle.json"


class Member(NamedTuple):
    """Where one file's bytes are: in a file of its own, or in an extent of the tar."""

    file: Path
    extent: archive.Member


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all as the manifest lists them.

    Args:
        manifest_bytes: ``bundle.json`` as it is on disk; the publisher signs its hash.
        members: Every listed file by its path, without the manifest.
    """

    manifest: Manifest
    manifest_bytes: bytes
    members: Mapping[str, Member]

    @property
    def sha256(self) -> str:
        """The manifest's SHA-256, hexadecimal."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    def blobs(self) -> dict[str, VariantFile]:
        """Return one listed file for each different content, by SHA-256."""
        return {file.sha256: file for file in self.manifest.every_file()}

    def chunks(self, file: VariantFile) -> Iterator[bytes]:
        """Yield a listed file's bytes, at most 1 MiB at a time.

        Raises:
            HashMismatchError: At the end: the file has changed since it was checked.
            BundleError: It can no longer be read.
        """
        return archive.checked(_read(self.members[file.path], file.path), file, MANIFEST)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle, a folder or an ``.ekb`` file, and check every byte of it.

    Raises:
        BundleError: It is not a bundle, is truncated, or has files that its manifest does not list;
            ``reasons`` names each of them.
        HashMismatchError: A file differs from the manifest; ``reasons`` names each.
    """
    what = str(path)
    try:
        members = _folder(path) if path.is_dir() else _tar(path)
    except OSError as cause:
        raise BundleError(
            f"{what}: {cause.strerror or cause}", hint="name a bundle's folder or file"
        ) from cause
    entry = members.pop(MANIFEST, None)
    if entry is None:
        raise BundleError(f"{what}: has no {MANIFEST}", hint="name a bundle's folder or its .ekb file")
    if entry.extent.size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{what}: {MANIFEST} has {entry.extent.size} bytes, at most {MAX_MANIFEST_BYTES}")
    data = b"".join(_read(entry, MANIFEST))
    bundle = Bundle(parse_manifest(data, f"{what}/{MANIFEST}"), data, members)
    archive.check_members(bundle.manifest, {name: m.extent.size for name, m in members.items()}, what)
    wrong = [reason for file in bundle.manifest.every_file() if (reason := _difference(bundle, file))]
    if wrong:
        raise HashMismatchError(f"{what}: files are not what the manifest says", reasons=tuple(wrong[:50]))
    return bundle


def write_archive(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write an ``.ekb`` file of members, each a name and its content; the same ones give the same bytes.

    Raises:
        OSError: It cannot be written.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))


def _difference(bundle: Bundle, file: VariantFile) -> str | None:
    try:
        for _ in bundle.chunks(file):
            pass
    except EdgekitError as problem:
        return f"{file.path}: {', '.join(problem.reasons) or problem.message}"
    return None


def _read(member: Member, name: str) -> Iterator[bytes]:
    try:
        with os.fdopen(os.open(member.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            yield from archive.pieces(file, member.extent)
    except OSError as cause:
        raise BundleError(f"{name}: {cause.strerror or cause}") from cause


def _tar(path: Path) -> dict[str, Member]:
    with path.open("rb") as file:
        extents = archive.read_index(file, str(path))
    return {name: Member(path, extent) for name, extent in extents.items()}


def _folder(root: Path) -> dict[str, Member]:
    members: dict[str, Member] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            listed = list(entries)
        for entry in listed:
            path = f"{folder}/{entry.name}" if folder else entry.name
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                folders.append(path)
            elif stat.S_ISREG(facts.st_mode):
                members[path] = Member(Path(entry.path), archive.Member(0, facts.st_size))
            else:
                raise BundleError(f"{root}: {path!r} is a link or a special file, not a plain file")
            if len(members) + len(folders) > archive.MAX_MEMBERS:
                raise BundleError(f"{root}: more than {archive.MAX_MEMBERS} files")
    return members
