"""Sends a video's file, whole or the part that a player asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHUNK_BYTES = 256 << 10
Headers = tuple[tuple[bytes, bytes], ...]


async def send_clip(
    send: Callable[..., Any], path: Path, headers: Mapping[bytes, bytes], more: Headers
) -> int:
    """Send an MP4 file; return how many of its bytes.

    A clip that is still being written is sent up to where it is now. Source: RFC 9110, 14: one range of
    bytes; any other form is answered with the whole.
    """
    size = await asyncio.to_thread(lambda: path.stat().st_size)
    begin, end = _range(headers.get(b"range", b""), size)
    is_part = (begin, end) != (0, size)
    kind = ((b"content-type", b"video/mp4"), (b"accept-ranges", b"bytes"), (b"cache-control", b"no-store"))
    length = (b"content-length", b"%d" % (end - begin))
    part = ((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, size)),) if is_part else ()
    start = {"type": "http.response.start", "status": 206 if is_part else 200}
    await send({**start, "headers": [*kind, length, *part, *more]})
    with path.open("rb") as file:
        file.seek(begin)
        left = end - begin
        while left:
            data = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
            if not data:
                break
            left -= len(data)
            await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    return end - begin - left


def _range(header: bytes, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last.

    >>> _range(b"bytes=5-", 10), _range(b"bytes=2-3", 10), _range(b"bytes=20-", 10), _range(b"bytes=-4", 10)
    ((5, 10), (2, 4), (0, 10), (6, 10))
    """
    asked = re.fullmatch(rb"bytes=(\d{0,15})-(\d{0,15})", header)
    if asked is None or not any(asked.groups()):
        return 0, size
    first, last = asked.groups()
    if not first:
        return max(0, size - int(last)), size
    begin, end = int(first), min(size, int(last) + 1) if last else size
    return (begin, end) if begin < end else (0, size)
