"""An open video file: what a decoder gives, and the decoder that is OpenCV."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import SourceError
from edgekit.pipeline.picture_files import readable, utf8_name
from edgekit.pipeline.pre import vision

PEEK_FRAMES = 250
"""How many frames are compared where all are the same: ten seconds."""
_M_PERTURB = -6


class VideoFile(Protocol):
    """An open video: its stated rate, 0 if unknown, and number of frames, 0 if unknown."""

    fps: float
    stated_frames: int

    def next(self) -> tuple[Any, float] | None:
        """Return the next frame, (height, width, 3), uint8, BGR, and its seconds from the start."""

    def close(self) -> None:
        """Free it."""


class OpenCvFile:
    """A video file in OpenCV, turned as its display matrix says, decoded by so many threads.

    0 threads: as many as there are cores.

    Raises:
        SourceError: OpenCV cannot open it.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        cv2 = self._cv2 = vision()
        settings = [cv2.CAP_PROP_N_THREADS, threads] if threads else []
        with utf8_name(path) as name:
            self._capture = cv2.VideoCapture(name, cv2.CAP_ANY, settings)
        if not self._capture.isOpened():
            self.close()
            raise SourceError(
                f"video {readable(path)!r}: is not a video that OpenCV can decode"
                + (f" with {threads} threads" if threads else ""),
                hint="only FFmpeg takes a number of threads: take 'threads' out" if threads else "",
            )
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.stated_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def next(self) -> tuple[Any, float] | None:
        """Return the next frame; None at the end."""
        is_there, pixels = self._capture.read()
        return (pixels, self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3) if is_there else None

    def close(self) -> None:
        """Free it."""
        self._capture.release()


def shows_nothing(path: Path) -> bool:
    """Return whether OpenCV writes nothing into a file's frames, though it decodes them.

    Then the first ``PEEK_FRAMES``, or all, are the same, and are memory as it was: black, or what the C
    library fills it with. What stands still and is neither is a still.
    """
    first, pixels = OpenCvFile(path), None
    try:
        for _ in range(PEEK_FRAMES):
            if (picture := first.next()) is None:
                break
            if pixels is not None and not np.array_equal(pixels, picture[0]):
                return False
            pixels = picture[0]
    finally:
        first.close()
    if pixels is None:
        return False
    return _is_black(pixels) or not np.array_equal(*(_first_over(path, fill) for fill in (0x5A, 0x2B)))


def _is_black(pixels: NDArray[Any]) -> bool:
    return bool(np.count_nonzero(pixels) <= pixels.size / 1000)


def _first_over(path: Path, fill: int) -> Any:
    """Return a file's first frame, decoded while new memory is filled with a byte."""
    with _memory_filled(fill):
        video = OpenCvFile(path)
        try:
            picture = video.next()
        finally:
            video.close()
    return None if picture is None else picture[0]


@contextlib.contextmanager
def _memory_filled(fill: int) -> Iterator[None]:
    """Have the C library fill what it hands out. Source: GNU C Library, mallopt, M_PERTURB.

    Another C library has no such thing, and memory stays as it was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(_M_PERTURB, fill)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)
