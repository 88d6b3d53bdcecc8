"""Tensors in shared memory that a client on this machine made: it sends their place, not their bytes.

They are copied with ``pread`` and ``pwrite`` and never mapped: a client that shortens its memory meanwhile
gets an error, where a mapping would end this process.

Source: Triton's protocol/extension_shared_memory.md, "System Shared Memory".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from edgekit.core.errors import TensorError
from edgekit.serve.errors import HttpError

_KEY = re.compile(r"/?[^/\0]{1,200}")
_MOST = 256
PARAMETERS = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


class Opened:
    """A shared memory object that stays open for as long as somebody has this.

    It may be unregistered while a request is about to use it, in another thread. The number of a descriptor
    that was closed meanwhile would soon be that of another client's memory, or of a connection.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class Region:
    """A part of one shared memory object that is open here."""

    name: str
    key: str
    offset: int
    byte_size: int
    memory: Opened

    def document(self) -> dict[str, Any]:
        """Return the protocol's row."""
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class Regions:
    """The regions that clients registered, by name; at most 256.

    Args:
        most_bytes: Of one tensor, as of a body. A region may be much larger, and a file without memory behind
            it costs its client nothing.
        folder: Where the objects are.
    """

    def __init__(
        self,
        most_bytes: int,
        folder: Path = Path("/dev/shm"),  # noqa: S108 - where POSIX has it
    ) -> None:
        self._most_bytes, self._folder = most_bytes, folder
        self._regions: dict[str, Region] = {}

    def rows(self, name: str = "") -> list[dict[str, Any]]:
        """Return one region's row, or all.

        Raises:
            HttpError: 404: there is no such region.
        """
        if name and name not in self._regions:
            raise HttpError(404, f"there is no shared memory region {name[:64]!r}")
        return [region.document() for region in self._regions.values() if name in ("", region.name)]

    def register(self, name: str, given: Mapping[str, Any]) -> None:
        """Open a region; again with the same place is no error.

        Raises:
            HttpError: 400: a field is missing or wrong, the object is not there or is smaller, the name is
                another region's, or there are 256.
        """
        key, offset, size = given.get("key"), given.get("offset", 0), given.get("byte_size")
        if not isinstance(key, str) or not _KEY.fullmatch(key) or key.strip("/") in (".", ".."):
            raise HttpError(400, "key: want the name of a shared memory object, such as /tensors")
        if not _is_size(offset) or not _is_size(size) or not size:
            raise HttpError(400, "offset and byte_size: want whole numbers of bytes, byte_size from 1")
        known = self._regions.get(name)
        if known is not None and (known.key, known.offset, known.byte_size) != (key, offset, size):
            raise HttpError(400, f"shared memory region {name[:64]!r} is registered already")
        if known is None and len(self._regions) >= _MOST:
            raise HttpError(400, f"at most {_MOST} shared memory regions can be registered")
        memory = self._open(key, offset + size)  # of a known one too: it may be a new object of the same name
        self._regions[name] = Region(name, key, offset, size, memory)

    def _open(self, key: str, end: int) -> Opened:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            memory = Opened(os.open(self._folder / key.strip("/"), flags))
        except OSError as cause:
            raise HttpError(400, f"shared memory {key!r} cannot be opened: {cause.strerror}") from cause
        if os.fstat(memory.descriptor).st_size < end:
            raise HttpError(400, f"shared memory {key!r} has less than the {end} bytes that were named")
        return memory

    def unregister(self, name: str = "") -> None:
        """Forget one region, or all; one that is not there is no error."""
        for each in [name] if name else list(self._regions):
            self._regions.pop(each, None)

    def read(self, what: str, parameters: Mapping[str, Any]) -> memoryview:
        """Return a copy of a tensor's bytes.

        Raises:
            TensorError: The parameters name no registered bytes, or too many, or the memory has become
                smaller.
        """
        region, offset, size = self._place(what, parameters)
        if size > self._most_bytes:
            raise TensorError(f"{what}: at most {self._most_bytes} bytes are read, got {size}")
        data = os.pread(region.memory.descriptor, size, region.offset + offset)
        if len(data) != size:
            raise TensorError(f"{what}: the shared memory has become smaller than its region")
        return memoryview(data)

    def write(self, what: str, parameters: Mapping[str, Any], data: memoryview) -> None:
        """Write a tensor's bytes.

        Raises:
            TensorError: As for ``read``, or there are more bytes than the parameters or the machine have
                room for.
        """
        region, offset, size = self._place(what, parameters)
        if data.nbytes > size:
            raise TensorError(f"{what} is {data.nbytes} bytes, shared_memory_byte_size is {size}")
        if os.fstat(region.memory.descriptor).st_size < region.offset + offset + data.nbytes:
            raise TensorError(f"{what}: the shared memory has become smaller than its region")
        try:
            written = os.pwrite(region.memory.descriptor, data, region.offset + offset)
        except OSError as cause:  # memory is given where it is first written
            raise TensorError(f"{what}: the shared memory cannot be written: {cause.strerror}") from cause
        if written < data.nbytes:
            raise TensorError(f"{what}: the machine has shared memory for {written} of {data.nbytes} bytes")

    def _place(self, what: str, parameters: Mapping[str, Any]) -> tuple[Region, int, int]:
        name, offset, size = (parameters.get(key) for key in PARAMETERS)
        region = self._regions.get(name) if isinstance(name, str) else None
        if region is None:
            raise TensorError(f"{what}: there is no shared memory region {str(name)[:64]!r}")
        offset = 0 if offset is None else offset
        if not _is_size(offset) or not _is_size(size) or offset + size > region.byte_size:
            raise TensorError(
                f"{what}: shared_memory_offset and shared_memory_byte_size must lie within"
                f" the {region.byte_size} bytes of the region"
            )
        return region, offset, size


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
