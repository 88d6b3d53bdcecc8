"""Pictures in a folder, in order of their names."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Annotated

import msgspec

from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Pacer, stamp

logger = logging.getLogger(__name__)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class ImagesOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of pictures.

    ``uri``: a folder or one file. ``fps``: the rate, 0 for as fast as possible; none is lost either way.
    """

    uri: str
    loop: bool = False
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0


class ImagesSource:
    """Pictures as frames; one that cannot be decoded is a gap in ``seq``, so it counts as dropped."""

    Options = ImagesOptions
    is_live = False

    def __init__(self, options: ImagesOptions, context: SourceContext) -> None:
        self._options = options
        self._path = context.path(options.uri)
        self._closing = threading.Event()
        self._pacer = Pacer(options.fps, self._closing) if options.fps else None
        self._paths: list[Path] = []
        self._next = self._seq = self._unreadable = 0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._pacer is None else self._pacer.due_s

    def open(self) -> None:
        """List the pictures."""
        vision()
        if self._path.is_file():
            self._paths = [self._path]
        elif self._path.is_dir():
            self._paths = sorted(p for p in self._path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not self._paths:
            raise SourceError(f"images {str(self._path)!r}: there is no picture")

    def read(self) -> Frame | None:
        """Return the next picture; None at the end or after ``close``."""
        while not self._closing.is_set():
            if self._next >= len(self._paths):
                if self._unreadable == len(self._paths):
                    raise SourceError(f"images {str(self._path)!r}: not one picture can be decoded")
                if not self._options.loop:
                    return None
                self._next = self._unreadable = 0
            path = self._paths[self._next]
            self._next += 1
            self._seq += 1
            if self._pacer is not None:
                self._pacer.wait()
            pixels = vision().imread(str(path), vision().IMREAD_COLOR)
            if pixels is not None:
                captured_ns, unix_ms = stamp()
                return Frame(pixels, self._seq - 1, captured_ns, unix_ms, {"path": path.name})
            self._unreadable += 1
            logger.warning("the picture %s cannot be decoded", path, extra={"source": str(path)})
        return None

    def close(self) -> None:
        """End a wait."""
        self._closing.set()
