"""The size of a picture, read from its file's header before it is decoded."""

from __future__ import annotations

import re
import struct

from edgekit.core.errors import TensorError

_PNG = b"\x89PNG\r\n\x1a\n"
# Source: ITU-T T.81, table B.1: the markers that begin a frame; C4, C8 and CC do not.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_PNM = re.compile(rb"P[1-6](?:\s+|\s*#[^\n]*\n)+(\d{1,9})(?:\s+|\s*#[^\n]*\n)+(\d{1,9})\s")
_MOST_TAGS = 4096


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the header of a JPEG, PNG, BMP, WebP, TIFF or PNM.

    Raises:
        TensorError: It is none of these, or ends before its size.
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    size = None
    if data.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    elif data.startswith(b"BM"):
        size = _bmp_size(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = _webp_size(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        size = _tiff_size(data)
    elif (match := _PNM.match(data)) is not None:
        size = int(match[1]), int(match[2])
    if size is None:
        raise TensorError("it is no picture (JPEG, PNG, BMP, WebP, TIFF, PNM), or ends in its header")
    return size


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            if at + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            length = struct.unpack_from(">H", data, at + 2)[0]
            at += 2 + max(2, length)
    return None


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 26:
        return None
    if int.from_bytes(data[14:18], "little") == 12:  # the oldest header has 16 bits
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a negative height: from the top down


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Source: RFC 9649, section 2; RFC 6386, section 9.1, for lossy pictures."""
    if len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return (width & 0x3FFF, height & 0x3FFF) if kind == b"VP8 " else None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Source: TIFF 6.0, section 2; of several pictures, the first."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8:
        return None
    at = struct.unpack_from(order + "I", data, 4)[0]
    if at + 2 > len(data):
        return None
    count = min(struct.unpack_from(order + "H", data, at)[0], _MOST_TAGS)
    sides: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if entry + 12 > len(data):
            break
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):  # ImageWidth, ImageLength; SHORT or LONG
            sides[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)[0]
    return (sides[256], sides[257]) if len(sides) == 2 else None


def check_image(data: bytes, most_pixels: int) -> None:
    """Refuse an image that would take too much memory once decoded.

    Raises:
        TensorError: It has no pixels or more than ``most_pixels``, or is no image.
    """
    width, height = image_size(data)
    if not 1 <= width * height <= most_pixels:
        raise TensorError(f"the image is {width} x {height} pixels, at most {most_pixels} in all are allowed")
