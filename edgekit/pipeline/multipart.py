"""Motion JPEG over HTTP: the pictures in a multipart body, of which only the newest counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from edgekit.core.errors import LinkError

MAX_PART_BYTES = 32 << 20
_LENGTH = re.compile(rb"(?i)(?:^|\r?\n)content-length:\s*(\d{1,9})\s*(?:\r?\n|$)")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


def boundary_of(content_type: str) -> bytes:
    """Return the text between a multipart body's parts; some cameras put its dashes into the header too.

    >>> boundary_of('multipart/x-mixed-replace; boundary="--frame"')
    b'--frame'
    """
    name = content_type.lower().find("boundary=")
    text = content_type[name + 9 :].partition(";")[0].strip().strip('"') if name >= 0 else ""
    return b"--" + text.lstrip("-").encode()


class Part(NamedTuple):
    """One part of a body: the lines before its content, and the content."""

    head: bytes
    body: bytes

    def header(self, name: str) -> str:
        r"""Return the value of a header, empty where there is none.

        >>> Part(b"--b\r\nContent-Type: image/jpeg", b"").header("content-type")
        'image/jpeg'
        """
        for line in self.head.splitlines():
            given, _, value = line.partition(b":")
            if given.strip().lower() == name.encode():
                return value.strip().decode("latin-1")
        return ""


def newest_parts(pieces: Iterable[bytes], boundary: bytes) -> Iterator[tuple[int, Part]]:
    """Yield (parts left out, part): of the parts that one piece of the body completes, the last.

    Raises:
        LinkError: A part is longer than ``MAX_PART_BYTES``.
    """
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        whole = []
        while (part := _take(buffer, boundary)) is not None:
            whole.append(part)
        if whole:
            yield len(whole) - 1, whole[-1]
        if len(buffer) > MAX_PART_BYTES:
            raise LinkError(f"a picture is larger than {MAX_PART_BYTES >> 20} MiB")


def _take(buffer: bytearray, boundary: bytes) -> Part | None:
    """Remove the first whole part from the buffer, and return it; None where there is none."""
    start = buffer.find(boundary)
    if start < 0:
        del buffer[: max(0, len(buffer) - len(boundary))]
        return None
    head = _HEAD_END.search(buffer, start + len(boundary))
    if head is None:
        return None
    stated = _LENGTH.search(buffer, start, head.end())
    if stated is not None:
        end = head.end() + int(stated[1])
        if len(buffer) < end:
            return None
    else:
        end = buffer.find(boundary, head.end())
        if end < 0:
            return None
    lines, body = bytes(buffer[start : head.start()]), bytes(buffer[head.end() : end])
    del buffer[:end]
    return Part(lines, body if stated is not None else body.removesuffix(b"\n").removesuffix(b"\r"))
