"""A file of JSON lines that is appended to line by line, and stays whole over kills and full disks."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

import msgspec

_STEP_BYTES = 1 << 16
_LONGEST_BYTES = 64 << 20
"""A last line that is longer is left as it is."""


class LineFile:
    """Appends whole lines: what a kill or a full disk left of one is cut off.

    Several processes may append to one file.

    Args:
        path: The file, made with its folder where it is not there.

    Raises:
        OSError: It cannot be opened.
    """

    cut: int
    """Bytes of half a line that were cut off when it was opened."""
    size: int
    """Bytes in it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        facts = os.fstat(self._file.fileno())
        self._is_plain, self.cut = stat.S_ISREG(facts.st_mode), 0
        try:
            if self._is_plain and facts.st_size:
                self.cut = _end_last_line(path)
        except BaseException:
            self._file.close()
            raise
        self.size = os.fstat(self._file.fileno()).st_size

    def append(self, lines: bytes) -> None:
        """Append lines: all of them, or none.

        Raises:
            OSError: The disk is full or broken.
        """
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._take_back(len(lines) - len(rest))
            raise
        if self._is_plain and lines:
            self.size = self._file.tell()

    def _take_back(self, written: int) -> None:
        """Cut off part of a line, unless another process has appended since."""
        with contextlib.suppress(OSError):
            at = self._file.tell()
            if written and at == os.fstat(self._file.fileno()).st_size:
                os.ftruncate(self._file.fileno(), at - written)

    def close(self) -> None:
        """Close it; safe to call twice."""
        self._file.close()


def last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last whole lines of a file, at most so many, without their ends; none where it is not there.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            found, is_all = _end_of(file, count + 1)
    except FileNotFoundError:
        return []
    lines = found.split(b"\n")[:-1]
    return (lines if is_all else lines[1:])[-count:]


def _end_last_line(path: Path) -> int:
    """Cut half a line off a file's end, or end a last line that is whole; return how many bytes were cut."""
    with path.open("r+b") as file:
        found, is_all = _end_of(file, 1)
        half = found[found.rfind(b"\n") + 1 :]
        if not half or (len(half) == len(found) and not is_all):
            return 0
        if _is_half(half):
            file.truncate(file.seek(0, os.SEEK_END) - len(half))
            return len(half)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
        return 0


def _is_half(line: bytes) -> bool:
    """Return whether it is the beginning of a JSON object, and no whole one."""
    if not line.startswith(b"{"):
        return False
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


def _end_of(file: BinaryIO, ends: int) -> tuple[bytes, bool]:
    """Return the end of a file that has so many ends of lines, if it can; and whether it is all of it."""
    at, found = file.seek(0, os.SEEK_END), b""
    while at and found.count(b"\n") < ends and len(found) < _LONGEST_BYTES:
        step = min(at, _STEP_BYTES)
        at -= step
        file.seek(at)
        found = file.read(step) + found
    return found, at == 0
