r"""Bytes of a sensor line to samples, and samples to windows; resynchronises after garbage.

Text: one sample a line, ``ax,ay,...\n`` (commas, semicolons, tabs or blanks). Binary: ``A5 5A``,
then little-endian: payload length in bytes (u16), sequence number (u16), the payload (float32 or
int16, whole samples), CRC-16/CCITT-FALSE of length, number and payload (u16).
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from edgekit.pipeline.fields import SHOWN_LETTERS, FieldMap, FieldOptions

Sample = tuple[float, ...]
SYNC = b"\xa5\x5a"
HEADER = struct.Struct("<HH")
MAX_PAYLOAD_BYTES = 4096
MAX_LINE_BYTES = 4096
_BETWEEN, _BETWEEN_NUMBERS = re.compile(r"[,;\s]+"), re.compile(r"[;\s]+")
_WRAPS = (1 << 8, 1000, 10_000, 1 << 15, 1 << 16, 100_000, 1_000_000, 1 << 31, 1 << 32)


class TextFraming:
    r"""One sample per line. The first line may begin with half a number: only a header in it is used.

    >>> framing = TextFraming(2)
    >>> framing.feed(b"3,4\n1.5,-2\n7,x\n5,"), framing.feed(b"6\n")
    ([(1.5, -2.0), 1], [(5.0, 6.0)])

    Args:
        channels: Values in a line.
        is_numbered: Whether each line starts with its number.
        options: Which fields they are.
        on_reject: Called with each line that does not fit, and why.
    """

    def __init__(
        self,
        channels: int,
        *,
        is_numbered: bool = False,
        options: FieldOptions | None = None,
        on_reject: Callable[[str, str], object] = lambda _line, _why: None,
    ) -> None:
        self._options = options or FieldOptions()
        self._fields = FieldMap(self._options, channels)
        self._is_numbered, self._on_reject = is_numbered, on_reject
        self._rest = b""
        self._is_lost = True
        self._expected: int | None = None
        self.rejected = 0

    def feed(self, data: bytes) -> list[Sample | int]:
        """Return, in order, the completed samples and the length of each gap."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        samples: list[Sample | int] = []
        for line in lines:
            text = line.decode("ascii", "backslashreplace").strip("\r\n\0")
            if self._is_lost:
                self._is_lost = False
                self._fields.took_header(split_fields(text, self._options))
            elif text.strip():
                samples += self._line(text)
        if len(self._rest) > MAX_LINE_BYTES:  # no line is that long: wait for the next one
            self._reject(self._rest.decode("ascii", "backslashreplace"), "want a line feed")
            self._rest, self._is_lost = b"", True
            samples.append(1)
        return samples

    def _reject(self, line: str, why: str) -> None:
        self.rejected += 1
        self._on_reject(line[:SHOWN_LETTERS], why)

    def _line(self, line: str) -> list[Sample | int]:
        fields, number = split_fields(line, self._options), 0
        if self._is_numbered:
            try:
                number, fields = int(fields[0]), fields[1:]
            except (ValueError, IndexError):
                if not self._fields.took_header(fields[1:]):
                    self._reject(line, "want the line's number in front")
                return []
        row = self._fields.row(fields)
        if row is None:
            if self._fields.problem:
                self._reject(line, self._fields.problem)
            # the next numbered line shows how many are missing
            return [] if self._is_numbered or not self._fields.problem else [1]
        if not self._is_numbered:
            return [row.values]
        expected, self._expected = self._expected, number + 1
        if expected is None or (missing := missing_between(expected, number)) == 0:
            return [row.values]
        return [missing, row.values]


def split_fields(line: str, options: FieldOptions) -> list[str]:
    """Return a line's fields; without a ``separator`` commas, semicolons, tabs and blanks separate them."""
    if options.separator:
        return line.split(options.separator)
    return [word for word in (_BETWEEN_NUMBERS if options.decimal_comma else _BETWEEN).split(line) if word]


def missing_between(expected: int, number: int) -> int:
    """Return how many lines are missing before one, by its number; at least 1 where it goes back.

    A count that wraps (at 2^8, 2^15, 2^16, 2^31, 2^32, or a power of ten) loses nothing.

    >>> missing_between(256, 0), missing_between(65534, 1), missing_between(7, 0), missing_between(7, 9)
    (0, 3, 1, 2)
    """
    if number >= expected:
        return number - expected
    for limit in _WRAPS:
        if limit - limit // 8 <= expected <= limit and number < limit // 8:
            return number + limit - expected
    return 1


def checksum(data: bytes) -> int:
    """Return CRC-16/CCITT-FALSE: polynomial 0x1021, start 0xFFFF.

    >>> hex(checksum(b"123456789"))
    '0x29b1'
    """
    return binascii.crc_hqx(data, 0xFFFF)


class BinaryFraming:
    """Checked and numbered frames of samples of ``channels`` values, each multiplied by ``scale``."""

    def __init__(self, channels: int, dtype: Literal["float32", "int16"], scale: float = 1.0) -> None:
        self._channels, self._scale = channels, scale
        self._code, self._size = ("f", 4) if dtype == "float32" else ("h", 2)
        self._rest = bytearray()
        self._expected: int | None = None
        self.rejected = 0

    def feed(self, data: bytes) -> list[Sample | int]:
        """Return, in order, the completed samples and the length of each gap."""
        self._rest += data
        samples: list[Sample | int] = []
        while True:
            start = self._rest.find(SYNC)
            if start < 0:
                del self._rest[: max(0, len(self._rest) - 1)]  # the last byte may be half a sync
                return samples
            del self._rest[:start]
            if len(self._rest) < 6:
                return samples
            length, number = HEADER.unpack_from(self._rest, 2)
            step = self._channels * self._size
            if not 0 < length <= MAX_PAYLOAD_BYTES or length % step:
                self._skip()
                continue
            if len(self._rest) < 8 + length:
                return samples
            body = bytes(self._rest[2 : 6 + length])
            if checksum(body) != int.from_bytes(self._rest[6 + length : 8 + length], "little"):
                self._skip()
                continue
            del self._rest[: 8 + length]
            samples += self._samples(number, body[4:], length // step)

    def _skip(self) -> None:
        """Skip only this sync: a broken frame may contain the next whole one."""
        self.rejected += 1
        del self._rest[:2]

    def _samples(self, number: int, payload: bytes, count: int) -> list[Sample | int]:
        samples: list[Sample | int] = []
        missing = 0 if self._expected is None else (number - self._expected) & 0xFFFF
        if missing:
            samples.append(missing * count)
        self._expected = (number + 1) & 0xFFFF
        values = struct.unpack(f"<{count * self._channels}{self._code}", payload)
        for first in range(0, len(values), self._channels):
            sample = tuple(value * self._scale for value in values[first : first + self._channels])
            samples.append(sample if all(map(math.isfinite, sample)) else 1)
        return samples


class Windower:
    """Cuts a stream of samples into windows that overlap, none across a gap.

    >>> windower = Windower(3, 2)
    >>> [(seq, window[0]) for seq, window in windower.push([(n,) for n in range(7)])]
    [(0, (0,)), (1, (2,)), (2, (4,))]

    Args:
        window: Samples in a window.
        hop: New samples from one window to the next; more than ``window`` leaves some out.
    """

    def __init__(self, window: int, hop: int) -> None:
        self._window, self._hop = window, hop
        self._samples: deque[Sample] = deque(maxlen=window)
        self._until = window
        self._seq = 0
        self.missing = 0

    def push(self, samples: Iterable[Sample | int]) -> list[tuple[int, tuple[Sample, ...]]]:
        """Return (number, window) for each window that samples and gaps complete.

        After a gap a new window starts, and the numbers skip the windows that the gap cost.
        """
        windows = []
        for entry in samples:
            if isinstance(entry, int):
                self._gap(entry)
                continue
            self._samples.append(entry)
            self._until -= 1
            if self._until == 0:
                windows.append((self._seq, tuple(self._samples)))
                self._seq += 1
                self._until = self._hop
        return windows

    def restart(self) -> None:
        """Begin a new window with the next sample, where another recording begins: nothing is missing."""
        self._samples.clear()
        self._until = self._window

    def _gap(self, missing: int) -> None:
        self.missing += missing
        # without the gap these windows would be complete by now
        lost = missing + self._window - self._until if self._samples else missing
        self._seq += max(1, lost // self._hop) if self._samples else lost // self._hop
        self._samples.clear()
        self._until = self._window
