"""Reads an NPZ file: small files into memory, large uncompressed ones as memory maps."""

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

# What the standard library and NumPy raise on a damaged archive; RuntimeError if it is encrypted.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error)


def load_npz(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Return a file's arrays by name, with their total size checked before anything is unpacked.

    An uncompressed file may have any size: if it is larger than ``max_bytes``, its arrays are memory
    maps, so only the samples in use are read.

    Raises:
        ConfigError: It is not an NPZ of plain arrays, or is compressed and larger than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(_uncompressed_size(archive, member.filename) for member in members)
        if total > max_bytes:
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ConfigError(
                    f"{path}: {total / 1e6:.0f} MB of compressed arrays, the limit is"
                    f" {max_bytes / 1e6:.0f} MB",
                    hint="save fewer samples, or write it with numpy.savez, which does not compress: then the"
                    " size is not limited, since only the samples in use are read",
                )
            return {member.filename.removesuffix(".npy"): _mapped(path, member) for member in members}
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except _DAMAGED as cause:
        raise ConfigError(
            f"{path}: is not an NPZ of plain arrays: {cause}", hint="write it with numpy.savez"
        ) from cause


def has_bytes(path: Path, axes: int) -> bool:
    """Return whether an array of an NPZ is uint8 with at least ``axes`` axes; reads only the headers.

    Raises:
        ConfigError: It is not an NPZ of plain arrays.
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
    """Return an uncompressed member as a memory map; its data follow the zip and the NPY header."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
        if head[:4] != b"PK\x03\x04":
            raise ValueError(f"{member.filename}: the header is damaged")
        name_bytes, extra_bytes = struct.unpack("<HH", head[26:30])
        file.seek(member.header_offset + 30 + name_bytes + extra_bytes)
        shape, is_fortran, dtype = _header(file, member.filename)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        if not np.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if is_fortran else "C")


def _uncompressed_size(archive: zipfile.ZipFile, member: str) -> int:
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
        raise ValueError(f"{member} has an unsupported header version {version}")
    shape, is_fortran, dtype = readers[version](file)
    return shape, is_fortran, dtype
