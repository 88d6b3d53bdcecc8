"""Pictures in a folder and its subfolders, in order of their names."""

from __future__ import annotations

import logging
import threading
from typing import Annotated

import msgspec

from edgekit.core.errors import SourceError, TensorError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.picture_files import list_pictures, read_picture, readable
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Pacer, stamp

logger = logging.getLogger(__name__)


class ImagesOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of pictures.

    ``uri``: a folder or one file. ``fps``: the rate, 0 for as fast as possible; none is lost either way.
    """

    uri: str
    loop: bool = False
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0


class ImagesSource:
    """Pictures as frames; one that cannot be decoded is a gap in ``seq``, so it counts as dropped.

    ``path`` is the file or folder; ``next_seq`` the number of the next picture.
    """

    Options = ImagesOptions
    is_live = False

    def __init__(self, options: ImagesOptions, context: SourceContext) -> None:
        self._options = options
        self.path = context.path(options.uri)
        self._closing = threading.Event()
        self._pacer = Pacer(options.fps, self._closing) if options.fps else None
        self._names: list[str] = []
        self._next = self.next_seq = self._unreadable = self._unreadable_in_a_row = 0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._pacer is None else self._pacer.due_s

    def counts(self) -> dict[str, int]:
        """Return how many pictures could not be decoded."""
        return {"unreadable": self._unreadable}

    def open(self) -> None:
        """List the pictures."""
        vision()
        if self.path.is_file():
            self._names = [self.path.name]
        elif self.path.is_dir():
            self._names = list_pictures(self.path)
        if not self._names:
            raise SourceError(f"images {readable(self.path)!r}: there is no picture")

    def read(self) -> Frame | None:
        """Return the next picture; None at the end or after ``close``."""
        folder = self.path.parent if self.path.is_file() else self.path
        while not self._closing.is_set():
            if self._unreadable_in_a_row == len(self._names):
                raise SourceError(f"images {readable(self.path)!r}: not one picture can be decoded")
            if self._next == len(self._names):
                if not self._options.loop:
                    return None
                self._next = 0
            name = self._names[self._next]
            self._next += 1
            self.next_seq += 1
            if self._pacer is not None:
                self._pacer.wait()
            try:
                pixels = read_picture(folder / name)
            except TensorError as error:
                self._unreadable += 1
                self._unreadable_in_a_row += 1
                logger.warning("a picture is left out: %s", error.message)
                continue
            self._unreadable_in_a_row = 0
            captured_ns, unix_ms = stamp()
            return Frame(pixels, self.next_seq - 1, captured_ns, unix_ms, {"file": readable(name)})
        return None

    def close(self) -> None:
        """End a wait."""
        self._closing.set()
