"""A frame as a small JPEG, for messages that may hold a picture."""

from __future__ import annotations

from typing import Any

from edgekit.pipeline.pre import vision

_SIDE_PX = 320
_QUALITY = 80
_MAX_BYTES = 64 << 10


def thumbnail(pixels: Any, side_px: int = _SIDE_PX, max_bytes: int = _MAX_BYTES) -> bytes | None:
    """Return an image as a small JPEG; None if it is not an image or exceeds ``max_bytes``.

    Args:
        pixels: Shape (height, width, 3), uint8, BGR; anything else has no thumbnail.
        side_px: The longer side, in pixels; a smaller image keeps its size.
        max_bytes: The limit.
    """
    if getattr(pixels, "ndim", 0) != 3:
        return None
    cv2 = vision()
    scale = min(1.0, side_px / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    is_done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    encoded: bytes = data.tobytes()
    return encoded if is_done and len(encoded) <= max_bytes else None
