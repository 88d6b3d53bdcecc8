"""The size of a picture, read from its file's header before it is decoded.

A decoder must read the same size: a small one here and a large one there would fill the memory. So a header
that two readers could read in two ways is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from edgekit.core.errors import TensorError

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
# Source: ITU-T T.81, table B.1: the markers that begin a frame; C4, C8 and CC do not.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_PADDING = re.compile(rb"\xff+")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])*"  # each byte fits in one way, so that a long one is not tried in many
_PNM = re.compile(rb"P[1-6]" + _GAP + rb"(\d{1,9})\s" + _GAP + rb"(\d{1,9})\s")
_MOST_PNM_BYTES = 16 << 10
_MOST_TAGS = 4096
_SIDES = {3: "H", 4: "I"}
"""The types that a TIFF's sides may have: SHORT and LONG."""
_MOST_SEGMENTS = 16_384
"""Of a JPEG before its picture: a gigabyte of them, where each is full."""
_SCAN = b"\xff\xda"
_MOST_SCANS = 128
"""Of a JPEG and its previews; encoders make about ten. Each one is a pass over all of its pixels.

Source: "Two Issues with the JPEG Standard", libjpeg-turbo.org, 2014.
"""


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the header of a JPEG, PNG, BMP, WebP, TIFF or PNM.

    Raises:
        TensorError: It is none of these, ends before its size, or could be read in two ways.
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    size = None
    if data.startswith(_JPEG):
        size = _jpeg_size(data)
    elif data.startswith(b"BM"):
        size = _bmp_size(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = _webp_size(data)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        size = _tiff_size(data)
    elif (match := _PNM.match(data[:_MOST_PNM_BYTES])) is not None:
        size = int(match[1]), int(match[2])
    if size is None:
        raise TensorError("it is no picture (JPEG, PNG, BMP, WebP, TIFF, PNM), or its header is damaged")
    return size


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    for marker, at in _jpeg_segments(data):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, where its length stands) of the segments up to the first scan, or to what is none."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if not (padding := _PADDING.match(data, at)) or padding.end() + 8 > len(data):
            return
        at = padding.end() + 1
        marker = data[at - 1]
        if marker == 0:  # a decoder looks for the next one from here on
            return
        if marker in _BARE:
            continue
        yield marker, at
        if marker == _SCAN[1]:
            return
        at += max(2, struct.unpack_from(">H", data, at)[0])


def _jpeg_scans(data: bytes) -> int:
    """Return how many scans there may be; 1 without counting, where one has all components."""
    frame = components = 0
    for marker, at in _jpeg_segments(data):
        if marker in _FRAMES:
            frame, components = marker, data[at + 7]
        elif marker == _SCAN[1] and frame in _SEQUENTIAL and data[at + 2] == components:
            return 1
    return data.count(_SCAN)


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
    count = struct.unpack_from(order + "H", data, at)[0]
    if count > _MOST_TAGS or at + 2 + 12 * count > len(data):
        return None
    sides: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, entry)
        if tag not in (256, 257):  # ImageWidth, ImageLength
            continue
        if tag in sides or values != 1 or kind not in _SIDES:
            return None
        sides[tag] = struct.unpack_from(order + _SIDES[kind], data, entry + 8)[0]
    return (sides[256], sides[257]) if len(sides) == 2 else None


def check_image(data: bytes, most_pixels: int) -> None:
    """Refuse an image that would take too much memory or time to decode.

    Raises:
        TensorError: It has no pixels, more than ``most_pixels``, or too many scans, or is no image.
    """
    width, height = image_size(data)
    if not 1 <= width * height <= most_pixels:
        raise TensorError(f"the image is {width} x {height} pixels, at most {most_pixels} in all are allowed")
    if data.startswith(_JPEG) and (scans := _jpeg_scans(data)) > _MOST_SCANS:
        raise TensorError(f"the image is a JPEG of {scans} scans, at most {_MOST_SCANS} are allowed")
