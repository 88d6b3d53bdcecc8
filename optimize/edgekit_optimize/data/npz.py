"""An NPZ file's arrays: small ones in memory, large ones where they lie on the disk."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError

# What the standard library and NumPy raise on a damaged archive; RuntimeError where it is encrypted.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error)


def load_npz(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return a file's arrays; the headers tell their size before anything is unpacked.

    A file that was saved without compression may be of any size: its arrays stay on the disk, and
    only what is looked at is read.

    Raises:
        ConfigError: It is no NPZ of plain arrays, or compressed and larger than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(_announced(archive, member.filename) for member in members)
        if total > max_bytes:
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ConfigError(
                    f"{path}: {total / 1e6:.0f} MB of arrays, at most {max_bytes / 1e6:.0f} MB are unpacked",
                    hint="save fewer samples, or write it with numpy.savez, which does not compress: of such"
                    " a file, however large, only the samples that are needed are read",
                )
            return {member.filename.removesuffix(".npy"): _mapped(path, member) for member in members}
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except _DAMAGED as cause:
        raise ConfigError(
            f"{path}: is not an NPZ of plain arrays: {cause}", hint="write it with numpy.savez"
        ) from cause


def has_bytes(path: Path, axes: int) -> bool:
    """Return whether an array of an NPZ holds bytes along so many axes or more, by the headers alone.

    Raises:
        ConfigError: It is no NPZ of plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, _, dtype = _header(file, member)
                if dtype == np.uint8 and len(shape) >= axes:
                    return True
    except _DAMAGED as cause:
        raise ConfigError(
            f"{path}: is not an NPZ of plain arrays: {cause}", hint="write it with numpy.savez"
        ) from cause
    return False


def _mapped(path: Path, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array where it lies in the file: the member is stored as it is, after its two headers."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
        if head[:4] != b"PK\x03\x04":
            raise ValueError(f"{member.filename}: its header is damaged")
        name_bytes, extra_bytes = struct.unpack("<HH", head[26:30])
        file.seek(member.header_offset + 30 + name_bytes + extra_bytes)
        shape, is_fortran, dtype = _header(file, member.filename)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        if not np.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _announced(archive: zipfile.ZipFile, member: str) -> int:
    with archive.open(member) as file:
        shape, _, dtype = _header(file, member)
    return int(np.prod(shape, dtype=np.float64)) * int(dtype.itemsize)


def _header(file: Any, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"{member} has a header of version {version}")
    shape, is_fortran, dtype = readers[version](file)
    return shape, is_fortran, dtype
