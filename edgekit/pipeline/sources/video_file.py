"""An open video file: what a decoder gives, and the decoder that is OpenCV."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edgekit.core.errors import SourceError
from edgekit.pipeline.picture_files import readable
from edgekit.pipeline.pre import vision

PEEK_FRAMES = 250
"""How many black frames at the start make a file one that OpenCV may not be able to show: ten seconds."""


class Picture(NamedTuple):
    """A decoded frame, (height, width, 3), uint8, BGR, and its time from the file's start."""

    pixels: Any
    media_s: float


class VideoFile(Protocol):
    """An open video: its stated rate, 0 if unknown, and number of frames, 0 if unknown."""

    fps: float
    stated_frames: int

    def next(self) -> Picture | None:
        """Return the next frame; None at the end."""

    def close(self) -> None:
        """Free it."""


class OpenCvFile:
    """A video file in OpenCV, turned as its display matrix says.

    Raises:
        SourceError: OpenCV cannot open it.
    """

    def __init__(self, path: Path) -> None:
        cv2 = self._cv2 = vision()
        with utf8_name(path) as name:
            self._capture = cv2.VideoCapture(name)
        if not self._capture.isOpened():
            self.close()
            raise SourceError(f"video {readable(path)!r}: is not a video that OpenCV can decode")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.stated_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def next(self) -> Picture | None:
        """Return the next frame; None at the end."""
        is_there, pixels = self._capture.read()
        return Picture(pixels, self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3) if is_there else None

    def close(self) -> None:
        """Free it."""
        self._capture.release()


def starts_black(path: Path) -> bool:
    """Return whether a file's first ``PEEK_FRAMES`` frames in OpenCV, or all of fewer, are black."""
    video, seen = OpenCvFile(path), 0
    try:
        while seen < PEEK_FRAMES and (picture := video.next()) is not None:
            seen += 1
            lines = picture.pixels.reshape(len(picture.pixels), -1)
            # the little that is not 0 is old memory, where OpenCV wrote nothing
            if vision().countNonZero(lines) > lines.size / 1000:
                return False
    finally:
        video.close()
    return seen > 0


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name that native libraries take: in OpenCV one that is not UTF-8 would end the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        yield str(path)
