"""Video files by OpenCV, for a device without PyAV: VP8 in WebM, which browsers play."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.core.errors import StorageError
from edgekit.pipeline.pre import vision

logger = logging.getLogger(__name__)

FPS = 15.0
"""Of a source that has no rate of its own."""


class PlainVideo:
    """Writes images to numbered files at a constant rate; a kill may cost the last second of one.

    Args:
        path: The first file; its suffix becomes ``.webm``. One that is there already is left alone.
        seconds: When another file begins; 0: never for its length.
        max_bytes: When the oldest of the files that this object wrote goes; a file has at most a quarter.
    """

    def __init__(self, path: Path, seconds: float, max_bytes: float) -> None:
        self._path, self._seconds, self._max_bytes = path.with_suffix(".webm"), seconds, max_bytes
        self._cv2 = vision()
        self._writer: Any = None
        self._size = (0, 0)
        self._frames = self._most = 0
        self._files: deque[Path] = deque()

    def add(self, image: NDArray[Any], fps: float) -> None:
        """Write a BGR image, shape (height, width, 3), uint8; one of another size begins another file.

        Raises:
            StorageError: The file cannot be written.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is not None and (size != self._size or self._is_full()):
            self.close()
        if self._writer is None:
            self._open(size, fps or FPS)
        self._writer.write(image)
        self._frames += 1

    def _is_full(self) -> bool:
        if 0 < self._most <= self._frames:
            return True
        is_time = self._frames % 100 == 0
        return is_time and self._files[-1].stat().st_size > self._max_bytes / 4

    def _open(self, size: tuple[int, int], fps: float) -> None:
        path = self._free()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise StorageError(f"{path}: cannot be written: {cause.strerror}") from cause
        writer = self._cv2.VideoWriter(str(path), self._cv2.VideoWriter.fourcc(*"VP80"), fps, size)
        if not writer.isOpened():
            raise StorageError(f"{path}: OpenCV cannot write a video there")
        self._writer, self._size = writer, size
        self._frames, self._most = 0, round(self._seconds * fps)
        self._files.append(path)
        while len(self._files) > 1 and sum(self._bytes()) > self._max_bytes:
            self._files.popleft().unlink(missing_ok=True)

    def _free(self) -> Path:
        path = self._path
        names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
        return next(name for name in itertools.chain([path], names) if not name.exists())

    def _bytes(self) -> list[int]:
        return [file.stat().st_size for file in self._files if file.exists()]

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        if self._writer is not None:
            self._writer.release()
        self._writer = None
