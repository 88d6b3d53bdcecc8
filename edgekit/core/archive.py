"""Read a bundle from an open tar, trusting nothing in it.

An ``.ekb`` is an uncompressed tar of regular files. Anything else a tar can hold (links, devices,
absolute paths or ``..``, duplicate names, sparse files) is refused, and so is a member that the manifest
does not list or whose size or hash differs. Members below ``trust/`` are no part of the bundle: what a bundle
that is carried in a file brings along to be trusted (``edgekit.update.carried``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edgekit.core.errors import BundleError, HashMismatchError
from edgekit.core.spec import MAX_MANIFEST_BYTES, Manifest, VariantFile, parse_manifest, path_problem

if TYPE_CHECKING:
    import tarfile

MAX_MEMBERS = 4096
TRUST = "trust/"
_PIECE_BYTES = 1 << 20


class Member(msgspec.Struct, frozen=True):
    """Offset and size, in bytes, of one file's content in the tar."""

    offset: int
    size: int


def read_index(stream: BinaryIO, what: str) -> dict[str, Member]:
    """Return the position of each file in the tar, by name.

    Raises:
        BundleError: It is not a tar, is truncated, or holds anything but plain files.
    """
    import tarfile  # with the compressors, 1 MB that an open folder does not need

    index: dict[str, Member] = {}
    try:
        stream.seek(0, 2)
        length = stream.tell()
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                if info.isdir():
                    continue
                name = info.name.removeprefix("./")
                reason = _member_problem(name, info, length, index)
                if reason:
                    raise BundleError(f"{what}: member {info.name[:200]!r} {reason}")
                index[name] = Member(info.offset_data, info.size)
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as cause:
        raise BundleError(f"{what} is not a readable tar: {cause}") from cause
    return index


def _member_problem(name: str, info: tarfile.TarInfo, length: int, index: Mapping[str, Member]) -> str:
    if not info.isreg() or info.issparse():
        return "is not a plain file"
    if name != "bundle.json" and (reason := path_problem(name)):
        return reason
    if name in index:
        return "is in the tar twice"
    if len(index) >= MAX_MEMBERS:
        return f"is over the limit of {MAX_MEMBERS} members"
    if info.size < 0 or info.offset_data + info.size > length:
        return "reaches past the end: the file is truncated"
    return ""


def read_manifest(stream: BinaryIO, index: Mapping[str, Member], what: str) -> tuple[Manifest, bytes]:
    """Return the manifest and its exact bytes, after checking the tar's members against it.

    Raises:
        BundleError: The manifest is missing or not valid, or the members are not those it lists.
    """
    member = index.get("bundle.json")
    if member is None:
        raise BundleError(f"{what} has no bundle.json")
    if member.size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{what}: bundle.json has {member.size} bytes, at most {MAX_MANIFEST_BYTES} are read"
        )
    stream.seek(member.offset)
    data = stream.read(member.size)
    manifest = parse_manifest(data, f"{what}: bundle.json")
    sizes = {name: entry.size for name, entry in index.items() if name != "bundle.json"}
    check_members(manifest, sizes, what)
    return manifest, data


def check_members(manifest: Manifest, sizes: Mapping[str, int], what: str) -> None:
    """Compare the files in a bundle with those the manifest lists.

    Raises:
        BundleError: A file is missing, not listed, or of another size; every one is named.
    """
    listed = {file.path: file.bytes for file in manifest.every_file()}
    reasons = [f"{path}: missing" for path in listed if path not in sizes]
    reasons += [
        f"{path}: not listed in bundle.json"
        for path in sizes
        if path not in listed and not path.startswith(TRUST)
    ]
    reasons += [
        f"{path}: below {TRUST}, where a bundle has no file" for path in listed if path.startswith(TRUST)
    ]
    reasons += [
        f"{path}: {sizes[path]} bytes, the manifest says {size}"
        for path, size in listed.items()
        if path in sizes and sizes[path] != size
    ]
    if reasons:
        raise BundleError(
            f"{what} does not hold what its manifest lists",
            reasons=tuple(reasons[:20]),
            hint="fetch or build the bundle again",
        )


def pieces(stream: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield a member's bytes, at most 1 MiB at a time."""
    stream.seek(member.offset)
    left = member.size
    while left and (piece := stream.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        yield piece


def checked(parts: Iterator[bytes], file: VariantFile, what: str) -> Iterator[bytes]:
    """Pass pieces on, and raise after the last unless they are the listed file.

    Raises:
        HashMismatchError: Length or hash differ; what was passed on must not be used.
    """
    digest, length = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        length += len(part)
        yield part
    if length != file.bytes or digest.hexdigest() != file.sha256:
        raise HashMismatchError(
            f"{what}: {file.path} is not the file that bundle.json lists",
            reasons=(
                f"want {file.bytes} bytes, sha256 {file.sha256}",
                f"got {length} bytes, {digest.hexdigest()}",
            ),
            hint="fetch or build the bundle again",
        )
