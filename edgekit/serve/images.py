"""The size of a JPEG or PNG, read from its header before it is decoded."""

from __future__ import annotations

import struct

from edgekit.core.errors import TensorError

_PNG = b"\x89PNG\r\n\x1a\n"
# Source: ITU-T T.81, table B.1: the markers that begin a frame; C4, C8 and CC do not.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the file's header.

    Raises:
        TensorError: It is neither JPEG nor PNG, or ends before its size.
    """
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if data.startswith(b"\xff\xd8") and (size := _jpeg_size(data)) is not None:
        return size
    raise TensorError("the body is not a JPEG or PNG image")


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


def check_image(data: bytes, most_pixels: int) -> None:
    """Refuse an image that would take too much memory once decoded.

    Raises:
        TensorError: It has no pixels or more than ``most_pixels``, or is no image.
    """
    width, height = image_size(data)
    if not 1 <= width * height <= most_pixels:
        raise TensorError(f"the image is {width} x {height} pixels, at most {most_pixels} in all are allowed")
