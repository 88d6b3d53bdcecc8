"""Areas of a camera's picture that are painted black as soon as it is decoded, before anything else has it.

The model, the page, clips, recordings and messages get the painted picture. The packets of the stream still
have these areas, so a pipeline with a blackout has no packets: its clips are encoded from painted frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame, Source
from edgekit.pipeline.check import Options
from edgekit.pipeline.pre import vision
from edgekit.pipeline.tracking.tables import Points, Position, polygon_problems

_EDGE_PX = 3
"""Width of the line painted along each edge: no pixel that the polygon touches keeps its colour."""


class BlackoutTable(Options, frozen=True, kw_only=True):
    """``[[blackout]]``: a polygon in shares of the picture, painted black."""

    polygon: tuple[Position, ...]

    def problems(self) -> Iterable[str]:
        """Report a polygon that has no area, or crosses itself."""
        return polygon_problems(self.polygon)


def paint(pixels: NDArray[Any], polygons: Iterable[Points]) -> None:
    """Paint areas of a picture black, in place, with every pixel that they touch.

    Args:
        pixels: Shape (height, width, 3), uint8, BGR, writable.
        polygons: Points in shares of its width and height, from 0 to 1.
    """
    cv2, (height, width) = vision(), pixels.shape[:2]
    for polygon in polygons:
        # OpenCV's (0, 0) is the middle of the first pixel, a share's the picture's corner
        points = np.rint(np.array(polygon) * (width, height) - 0.5).astype(np.int32)
        cv2.fillPoly(pixels, [points], (0, 0, 0))
        cv2.polylines(pixels, [points], isClosed=True, color=(0, 0, 0), thickness=_EDGE_PX)


class BlackedOut:
    """A source whose pictures are painted when they are read; all else is the source's own."""

    packets = None
    """The stream as the camera sent it, which no clip may have."""

    if TYPE_CHECKING:
        is_live: bool

    def __init__(self, source: Source, tables: Sequence[BlackoutTable]) -> None:
        self._source = source
        self._polygons = [table.polygon for table in tables]

    def __getattr__(self, name: str) -> Any:
        """Return what a source may have beside the methods of every source."""
        return getattr(self._source, name)

    def open(self) -> None:
        """Open the source; raises as it does."""
        self._source.open()

    def read(self) -> Frame | None:
        """Return the next frame, painted; None at the end.

        Raises:
            SourceError: The source vanished, or gives something else than pictures.
        """
        frame = self._source.read()
        if frame is not None:
            if getattr(frame.data, "ndim", 0) != 3:
                raise SourceError("blackout: want pictures, got something else", hint="take [[blackout]] out")
            if not (frame.data.flags.writeable and frame.data.flags.c_contiguous):
                frame.data = np.array(frame.data, order="C")  # OpenCV paints in no view that is turned or cut
            paint(frame.data, self._polygons)
        return frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()
