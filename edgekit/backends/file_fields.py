"""Reads the two binary formats of model files, flatbuffers and protobuf, field by field.

No runtime and no schema compiler: a reader names the field numbers it wants. Corrupt bytes raise
``struct.error``, ``LookupError`` or ``UnicodeDecodeError``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

# Source: onnx.proto, TensorProto: field numbers, and data types as struct's letters.
_TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS, _TENSOR_RAW = 2, 4, 5, 9
_ONNX_LETTERS = {1: "f", 2: "B", 3: "b", 4: "H", 5: "h", 6: "i"}


class Table:
    """One table of a flatbuffer; a field that is absent has its default."""

    def __init__(self, data: Any, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - read_scalar(data, "i", at)

    def _slot(self, index: int) -> int:
        size = read_scalar(self._data, "H", self._fields)
        offset = read_scalar(self._data, "H", self._fields + 4 + 2 * index) if 4 + 2 * index < size else 0
        return self._at + offset if offset else 0

    def scalar(self, index: int, letter: str) -> int:
        """Return a number of ``struct``'s type ``letter``; 0 where it is absent."""
        slot = self._slot(index)
        return read_scalar(self._data, letter, slot) if slot else 0

    def table(self, index: int) -> Table | None:
        """Return a table within; None where it is absent."""
        slot = self._slot(index)
        return Table(self._data, slot + read_scalar(self._data, "I", slot)) if slot else None

    def text(self, index: int) -> str:
        """Return a text; empty where it is absent."""
        return bytes(self.values(index, "B")).decode()

    def values(self, index: int, letter: str) -> tuple[Any, ...]:
        """Return a vector of numbers; empty where it is absent."""
        slot = self._slot(index)
        if not slot:
            return ()
        start = slot + read_scalar(self._data, "I", slot)
        return struct.unpack_from(f"<{read_scalar(self._data, 'I', start)}{letter}", self._data, start + 4)

    def length(self, index: int) -> int:
        """Return the length of a vector, or 0."""
        slot = self._slot(index)
        return read_scalar(self._data, "I", slot + read_scalar(self._data, "I", slot)) if slot else 0

    def tables(self, index: int) -> list[Table]:
        """Return a vector of tables; empty where it is absent."""
        slot = self._slot(index)
        first = slot + read_scalar(self._data, "I", slot) + 4 if slot else 0
        offsets = range(first, first + 4 * len(self.values(index, "I")), 4)
        return [Table(self._data, offset + read_scalar(self._data, "I", offset)) for offset in offsets]


def read_scalar(data: Any, letter: str, at: int) -> int:
    """Return the little-endian number of ``struct``'s type ``letter`` at a position."""
    value: int = struct.unpack_from(f"<{letter}", data, at)[0]
    return value


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of one protobuf message: a view of its bytes, or an integer."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > end:
            raise IndexError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def texts(parts: Any, which: int) -> list[str]:
    """Return the texts with one field number of ``fields``' result."""
    return [bytes(body).decode() for number, body in parts if number == which]


def numbers(tensor: memoryview) -> tuple[Any, ...]:
    """Return the values of a TensorProto, from ``raw_data`` or from its typed lists."""
    parts = list(fields(tensor))
    letter = _ONNX_LETTERS[next(body for number, body in parts if number == _TENSOR_TYPE)]
    for number, body in parts:
        if number == _TENSOR_RAW:
            return struct.unpack(f"<{len(body) // struct.calcsize(letter)}{letter}", body)
        if number == _TENSOR_FLOATS:
            return struct.unpack(f"<{len(body) // 4}f", body)
    return integers(parts, _TENSOR_INTS) or (0,)


def integers(parts: Any, which: int) -> tuple[int, ...]:
    """Return the integers with one field number of ``fields``' result, packed or not."""
    found: list[int] = []
    for number, body in parts:
        if number != which:
            continue
        if isinstance(body, int):
            found.append(body)
            continue
        at = 0
        while at < len(body):
            value, at = _varint(body, at)
            found.append(value - (1 << 64) if value >> 63 else value)
    return tuple(found)
