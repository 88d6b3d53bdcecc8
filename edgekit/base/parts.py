"""Files of parts, each behind its length (four bytes, big-endian): what is carried where there is no link."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgekit.core.errors import UsageError
from edgekit.core.wire import MAX_MESSAGE_BYTES

_LENGTH = struct.Struct(">I")


def write_part(file: BinaryIO, part: bytes) -> None:
    """Append a part of at most ``MAX_MESSAGE_BYTES``.

    Raises:
        OSError: The disk is full or broken.
    """
    file.write(_LENGTH.pack(len(part)) + part)


def read_parts(path: Path) -> Iterator[bytes]:
    """Yield the parts of a file.

    Raises:
        UsageError: It cannot be read, or is not such a file.
    """
    try:
        with path.open("rb") as file:
            while head := file.read(_LENGTH.size):
                size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
                part = file.read(size) if 0 < size <= MAX_MESSAGE_BYTES else b""
                if len(part) != size:
                    raise UsageError(f"{path}: is not a whole file of an outbox", hint="copy it again")
                yield part
    except OSError as cause:
        raise UsageError(f"{path}: {cause.strerror}") from cause
