"""Boxes from the dense outputs of the YOLO families, which have one row for each place of the picture.

Output ``predictions``, ``rows`` [1, N, K] or ``columns`` [1, K, N] by ``layout``; a row is a box, with
``objectness`` one number, the classes, and what ``ExtraOptions`` name. Or outputs ``boxes`` [1, N, 4] and
``scores`` [1, N, C], apart. Options: ``box`` and ``units`` (what the four numbers of a box are),
``activation`` (``sigmoid`` where scores are logits), ``score_scale`` (what a certain score is, usually 1),
``strides`` (YOLOX: boxes are offsets from the cells of these grids, sizes logarithms), ``multi_label``
(every class of a row that passes is an item, not only its best), ``background`` (the ``first`` or ``last``
class that means "nothing").

Families: YOLOv5 and v7 decoded, v6, v3u, v5u, v8, v9, 11, 12, 26 and v10 without end-to-end head, YOLO-NAS,
YOLOX, Swift-YOLO, each with its pose, oriented and segmentation models; UltraFace (no real file seen).

Source: what the exporters' own libraries answer; YOLOX: Z. Ge et al. (2021), ``YOLOXHead.decode_outputs``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.extras import ExtraOptions, ExtraReader
from edgekit.pipeline.decoders.items import (
    Background,
    Corners,
    Finish,
    Units,
    bounded,
    logit,
    sigmoid,
    size_of,
    to_corners,
)

Floats = NDArray[np.float32]
Stride = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class YoloOptions(ExtraOptions, frozen=True, kw_only=True):
    """``post.options`` of a dense detector; see the module."""

    layout: Literal["rows", "columns"] = "rows"
    box: Corners = "cxcywh"
    units: Units = "pixels"
    objectness: bool = False
    activation: Literal["none", "sigmoid"] = "none"
    score_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    strides: tuple[Stride, ...] = ()
    multi_label: bool = False
    background: Background = ""

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        found = super().problems()
        if self.strides and (self.box, self.units) != ("cxcywh", "pixels"):
            found.append("strides: want box cxcywh and units pixels, as YOLOX has")
        if self.angle and self.box != "cxcywh":
            found.append("angle: want box cxcywh")
        return found


class _Grid:
    """The cells that YOLOX's boxes are offsets from, in the order of the rows."""

    def __init__(self, setup: Setup, strides: tuple[int, ...], count: int) -> None:
        width, height = (int(edge) for edge in size_of(setup))
        corners, factors = [], []
        for stride in strides:
            y, x = np.mgrid[: height // stride, : width // stride]
            corners.append(np.stack([x, y], axis=-1).reshape(-1, 2))
            factors.append(np.full(x.size, stride))
        self._corner = np.concatenate(corners).astype(np.float32)
        self._stride = np.concatenate(factors).astype(np.float32)[:, None]
        if count not in (-1, len(self._corner)):
            raise BundleError(
                f"{setup.what}: post.options.strides make {len(self._corner)} rows at "
                f"{width}x{height}, the model has {count}"
            )

    def decode(self, raw: Floats, rows: NDArray[np.intp]) -> Floats:
        centre = (raw[:, :2] + self._corner[rows]) * self._stride[rows]
        # e**20 is far beyond any image: the bound keeps hostile outputs from overflowing
        size = np.exp(np.clip(raw[:, 2:], -20, 20)) * self._stride[rows]
        return np.concatenate([centre, size], axis=1)


class _Table:
    """One output as rows: box, objectness, classes, extras; views, nothing is copied."""

    def __init__(self, setup: Setup, options: YoloOptions) -> None:
        self._is_apart = "predictions" not in setup.shapes and "boxes" in setup.shapes
        self._first, self._extra = 4 + int(options.objectness), options.width()
        self._is_turned = options.layout == "columns"
        if self._is_apart:
            if options.objectness or self._extra or self._is_turned:
                raise BundleError(
                    f"{setup.what}: outputs 'boxes' and 'scores' are rows without objectness and extras"
                )
            self.count = shape_of(setup, "boxes", (1, -1, 4))[1]
            self.classes = shape_of(setup, "scores", (1, self.count, -1))[2]
            return
        shape = shape_of(setup, "predictions", (1, -1, -1))[1:]
        self.count, width = shape[::-1] if self._is_turned else shape
        self.classes = -1 if width < 0 else width - self._first - self._extra
        if width >= 0 and self.classes < 1:
            raise BundleError(
                f"{setup.what}: output 'predictions' has {width} numbers in a row, "
                f"box, objectness and extras take {self._first + self._extra}; no class is left",
                hint="is post.options.layout the other one?",
            )

    def split(self, outcome: Outcome) -> tuple[Floats, Floats, Floats | None, Floats]:
        """Return boxes (N, 4), scores (N, C), objectness (N,) and extras (N, E)."""
        if self._is_apart:
            boxes = outcome.tensors["boxes"][0]
            return boxes, outcome.tensors["scores"][0], None, boxes[:, 4:]
        table = outcome.tensors["predictions"][0]
        if self._is_turned:
            table = table.T
        last = table.shape[1] - self._extra
        objectness = table[:, 4] if self._first == 5 else None
        return table[:, :4], table[:, self._first : last], objectness, table[:, last:]


def build(setup: Setup) -> Decoder:
    """Return a decoder: each row's best class, thresholded, then suppression."""
    options = options_of(setup, YoloOptions)
    table = _Table(setup, options)
    finish = Finish(setup, options, table.classes, options.background)
    unit = finish.unit(options.units)
    edges = np.tile(unit, 2)
    grid = _Grid(setup, options.strides, table.count) if options.strides else None
    extras = ExtraReader(setup, options, unit)
    score = _Scores(options, finish)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        raw, scores, objectness, more = table.split(outcome)
        rows, classes, sure = score.candidates(scores, objectness)
        if not len(rows):
            return ()
        boxes = bounded(raw[rows])
        if grid is not None:
            boxes = grid.decode(boxes, rows)
        if options.angle:
            boxes = np.concatenate([boxes * edges, bounded(more[rows])], axis=1)
        else:
            boxes = to_corners(boxes, options.box) * edges
        kept = finish.keep(boxes, sure, classes)
        boxes = boxes[kept]
        found = extras.read(bounded(more[rows[kept]]), boxes, outcome)
        return finish.items(boxes, sure[kept], classes[kept], outcome.placement, found)

    return decode


class _Scores:
    """Finds the rows that may become items without computing what cannot pass."""

    def __init__(self, options: YoloOptions, finish: Finish) -> None:
        self._options, self._finish = options, finish
        is_logit = options.activation == "sigmoid"
        # a sigmoid keeps the order: the bound goes through its inverse, the scores stay as they are
        self._bound = logit(finish.bound) if is_logit else finish.bound * options.score_scale

    def _real(self, values: Floats) -> Floats:
        if self._options.activation == "sigmoid":
            return sigmoid(values)
        return np.asarray(values / np.float32(self._options.score_scale))

    def candidates(
        self, scores: Floats, objectness: Floats | None
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        """Return (row, class, score) of every candidate."""
        rows = np.arange(0)
        if objectness is not None:  # the product is no greater than it
            rows = np.flatnonzero(objectness >= self._bound)
            scores = self._real(scores[rows]) * self._real(objectness[rows])[:, None]
        bound = self._bound if objectness is None else self._finish.bound
        if self._options.multi_label:
            found, classes = np.nonzero(scores[:, self._finish.columns] >= bound)
            classes = classes + (self._finish.columns.start or 0)
            sure = scores[found, classes]
        else:
            found, classes, sure = self._finish.best(scores, bound)
        if objectness is None:
            return found, classes, self._real(sure)
        return rows[found], classes, sure
