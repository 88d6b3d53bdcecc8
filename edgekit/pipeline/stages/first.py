"""On which frames the first stage runs, and on which tiles of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.ports import Frame
from edgekit.pipeline.pre import vision
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.stages.crops import Area, cut, joined, tile_areas
from edgekit.pipeline.stages.tables import StageTable
from edgekit.pipeline.timed import Inferred, Prepared, Timed

GATE_SIDE_PX = 96
"""Motion is looked for in a small grey picture: what a distant person changes is some of its pixels."""
GATE_LEVELS = 16
"""A pixel has changed by more than this, of 255."""


class Gate:
    """Decides which frames the first stage looks at.

    Args:
        every: Each so-many-th frame.
        motion: The share of the picture that must differ from the frame that was looked at last; 0: none.
    """

    def __init__(self, every: int, motion: float) -> None:
        self._every, self._motion = every, motion
        self._frames = 0
        self._before: NDArray[np.uint8] | None = None

    def opens(self, frame: Frame) -> bool:
        """Return whether to look at a frame."""
        self._frames += 1
        if (self._frames - 1) % self._every:
            return False
        if not self._motion:
            return True
        now = _small(frame.data)
        if self._before is not None and self._before.shape == now.shape:
            changed = vision().absdiff(now, self._before) > GATE_LEVELS
            if changed.mean() < self._motion:
                return False
        self._before = now
        return True


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cv2 = vision()
    scale = GATE_SIDE_PX / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey: NDArray[np.uint8] = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return grey


@dataclass(slots=True)
class TilesInferred:
    """The outputs of a frame's tiles."""

    areas: list[Area]
    inferred: list[Inferred]
    width: int
    height: int


class First:
    """What the loop asks of the first stage: whether, and on what."""

    def __init__(self, table: StageTable) -> None:
        self._table, self.name = table, table.name
        self._gate = Gate(table.every, table.motion)
        self.prepares = not (table.is_tiled or table.motion) and table.every == 1
        """Whether its input may be made before it is known that it runs."""
        self.inferences = self.skipped = 0

    def opens(self, frame: Frame) -> bool:
        """Return whether to run on a frame; on its lane's thread."""
        is_open = self._gate.opens(frame)
        self.inferences += is_open
        self.skipped += not is_open
        return is_open

    def infer(
        self, predictor: Predictor, frame: Frame, prepared: Prepared | None
    ) -> Inferred | TilesInferred:
        """Run the model on a frame or on its tiles; on its lane's thread."""
        if not self._table.is_tiled:
            return predictor.infer(frame.data, prepared)
        height, width = frame.data.shape[:2]
        areas = tile_areas(width, height, self._table.tiles, self._table.overlap)
        inferred = predictor.infer_many([cut(frame.data, area) for area in areas])
        return TilesInferred(areas, inferred, width, height)

    def finish(self, predictor: Predictor, inferred: Inferred | TilesInferred) -> Timed:
        """Return the frame's items, each object once."""
        if isinstance(inferred, Inferred):
            return predictor.finish(inferred)
        began_ns = time.perf_counter_ns()
        timed = [predictor.finish(one) for one in inferred.inferred]
        found = [(area, one.prediction.items) for area, one in zip(inferred.areas, timed, strict=True)]
        items = joined(found, inferred.width, inferred.height, predictor.manifest.post.iou_threshold)
        prediction = msgspec.structs.replace(timed[0].prediction, items=tuple(items))
        post_ms = sum(one.copy_ms for one in inferred.inferred) + (time.perf_counter_ns() - began_ns) / 1e6
        return Timed(
            prediction, sum(one.pre_ms for one in timed), sum(one.infer_ms for one in timed), post_ms
        )
