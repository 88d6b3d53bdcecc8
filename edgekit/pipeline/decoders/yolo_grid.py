"""Boxes from the raw grids of the YOLO families that have anchors.

Outputs ``grid0``, ``grid1``, ..., one for each of ``strides``, by ``layout``: NCHW [1, A * K, h, w], NHWC
[1, h, w, A * K] or split [1, A, h, w, K], where a row of K is a box, objectness and the classes. Or, with
``head`` fastestv2, one output ``predictions`` [N, 4A + A + C] (also with a batch of 1): a cell's boxes, its
objectness, and classes that its anchors share. ``head`` fastestdet: one grid without anchors, [1, 1 + 4 + C,
h, w]. Options: ``anchors`` (for each grid width and height in pixels, in turn), ``formula`` (``v3``:
exponential sizes; ``v5``, also v4's scaled and v7's: sizes by squares), ``activation`` (``sigmoid`` where the
grids are raw, ``none`` where the model has done it).

Real files seen: Yolo-FastestV2. The others: no real file seen.

Source: J. Redmon and A. Farhadi, "YOLOv3" (2018), section 2.1; YOLOv5's and FastestDet's published decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.items import (
    DetectOptions,
    Finish,
    bounded,
    logit,
    sigmoid,
    size_of,
    to_corners,
)

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
Stride = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Edge = Annotated[float, msgspec.Meta(gt=0)]
Read = Callable[[Outcome], tuple[Floats, Floats, Callable[[Rows], Floats]]]
"""From an outcome to boxes (N, 4), objectness (N,), and the classes of the rows that are asked for."""


class GridOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of such a detector; see the module."""

    strides: tuple[Stride, ...]
    anchors: tuple[tuple[Edge, ...], ...] = ()
    head: Literal["yolo", "fastestv2", "fastestdet"] = "yolo"
    layout: Literal["NCHW", "NHWC", "split"] = "NCHW"
    formula: Literal["v3", "v5"] = "v5"
    activation: Literal["none", "sigmoid"] = "sigmoid"

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        if self.head == "fastestdet":
            return [] if len(self.strides) == 1 else ["strides: want one, fastestdet has one grid"]
        if len(self.anchors) != len(self.strides):
            return [f"anchors: want {len(self.strides)} lists, one for each stride, got {len(self.anchors)}"]
        if len({len(row) for row in self.anchors}) != 1 or len(self.anchors[0]) % 2:
            return ["anchors: want as many pairs of width and height in each list"]
        return []


class _Cells:
    """Every anchor of every cell: its corner (N, 2), its stride (N,) and its anchor (N, 2), in pixels."""

    def __init__(self, setup: Setup, options: GridOptions) -> None:
        width, height = (int(edge) for edge in size_of(setup))
        corners, strides, sizes = [], [], []
        self.grids: list[tuple[int, int]] = []
        anchors = options.anchors or ((1.0, 1.0),)
        self.anchors = len(anchors[0]) // 2
        for stride, row in zip(options.strides, anchors, strict=True):
            rows, columns = height // stride, width // stride
            y, x = np.mgrid[:rows, :columns]
            cells = np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), self.anchors, axis=0)
            corners.append(cells)
            strides.append(np.full(len(cells), stride))
            sizes.append(np.tile(np.array(row).reshape(-1, 2), (rows * columns, 1)))
            self.grids.append((rows, columns))
        self.corner = np.concatenate(corners).astype(np.float32)
        self.stride = np.concatenate(strides).astype(np.float32)[:, None]
        self.size = np.concatenate(sizes).astype(np.float32)


def build(setup: Setup) -> Decoder:
    """Return a decoder: each anchor's best class, thresholded, then suppression."""
    options = options_of(setup, GridOptions)
    cells = _Cells(setup, options)
    read, classes = _reader(setup, options, cells)
    finish = Finish(setup, options, classes)
    is_logit = options.activation == "sigmoid" and options.head != "fastestdet"
    # FastestDet weighs: its score is objectness ** .6 * class ** .4, so more may pass than objectness does
    bound = finish.bound ** (1 / 0.6) if options.head == "fastestdet" else finish.bound
    least = logit(bound) if is_logit else bound

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        raw, objectness, scores = read(outcome)
        rows = np.flatnonzero(objectness >= least)
        if not len(rows):
            return ()
        sure, chances = objectness[rows], scores(rows)
        if is_logit:
            sure, chances = sigmoid(sure), sigmoid(chances)
        if options.head == "fastestdet":
            sure, chances = np.maximum(sure, 0) ** np.float32(0.6), np.maximum(chances, 0) ** np.float32(0.4)
        found, which, best = finish.best(sure[:, None] * chances, finish.bound)
        rows = rows[found]
        boxes = to_corners(_boxes(bounded(raw[rows]), rows, cells, options, finish.size), "cxcywh")
        kept = finish.keep(boxes, best, which)
        return finish.items(boxes[kept], best[kept], which[kept], outcome.placement)

    return decode


def _boxes(raw: Floats, rows: Rows, cells: _Cells, options: GridOptions, size: Floats) -> Floats:
    """Return centre x, centre y, width, height in pixels of the input."""
    corner, stride, anchor = cells.corner[rows], cells.stride[rows], cells.size[rows]
    if options.head == "fastestdet":
        return np.concatenate([(np.tanh(raw[:, :2]) + corner) * stride, sigmoid(raw[:, 2:]) * size], axis=1)
    is_raw = options.activation == "sigmoid"
    shares = sigmoid(raw) if is_raw else raw
    if options.formula == "v3":
        # e**20 is far beyond any image: the bound keeps hostile outputs from overflowing
        grown = np.exp(np.clip(raw[:, 2:], -20, 20)) if is_raw else raw[:, 2:]
        return np.concatenate([(shares[:, :2] + corner) * stride, grown * anchor], axis=1)
    centre = (shares[:, :2] * 2 - np.float32(0.5) + corner) * stride
    return np.concatenate([centre, (shares[:, 2:] * 2) ** 2 * anchor], axis=1)


def _reader(setup: Setup, options: GridOptions, cells: _Cells) -> tuple[Read, int]:
    """Return what reads an outcome, and the number of classes."""
    if options.head == "fastestv2":
        return _shared_reader(setup, cells)
    widths = set()
    is_det = options.head == "fastestdet"
    for number, (rows, columns) in enumerate(cells.grids):
        name = f"grid{number}"
        if options.layout == "split":
            widths.add(shape_of(setup, name, (1, cells.anchors, rows, columns, -1))[4])
            continue
        last = options.layout == "NHWC"
        shape = shape_of(setup, name, (1, rows, columns, -1) if last else (1, -1, rows, columns))
        widths.add(shape[3 if last else 1] // cells.anchors)
    width = widths.pop()
    if widths or width < 6:
        raise BundleError(f"{setup.what}: the grids have no box, objectness and class for each anchor")

    def read(outcome: Outcome) -> tuple[Floats, Floats, Callable[[Rows], Floats]]:
        table = np.concatenate(
            [_rows(outcome.tensors[f"grid{n}"][0], options.layout, width) for n in range(len(cells.grids))]
        )
        box, sure = (slice(1, 5), 0) if is_det else (slice(0, 4), 4)
        return table[:, box], table[:, sure], lambda rows: table[rows, 5:]

    return read, width - 5


def _rows(grid: Floats, layout: str, width: int) -> Floats:
    """Return a grid as rows of ``width``, cell by cell, a cell's anchors in turn."""
    if layout == "split":
        grid = grid.transpose(1, 2, 0, 3)
    elif layout == "NCHW":
        grid = grid.transpose(1, 2, 0)
    return grid.reshape(-1, width)


def _shared_reader(setup: Setup, cells: _Cells) -> tuple[Read, int]:
    count, anchors = len(cells.corner) // cells.anchors, cells.anchors
    shape = setup.shapes.get("predictions", ())
    shape_of(setup, "predictions", (*(1,) * (len(shape) - 2), count, -1))
    classes = shape[-1] - 5 * anchors
    if classes < 1:
        raise BundleError(f"{setup.what}: output 'predictions': {shape[-1]} numbers leave no class")

    def read(outcome: Outcome) -> tuple[Floats, Floats, Callable[[Rows], Floats]]:
        table = outcome.tensors["predictions"].reshape(count, -1)
        boxes = table[:, : 4 * anchors].reshape(-1, 4)
        objectness = table[:, 4 * anchors : 5 * anchors].reshape(-1)
        return boxes, objectness, lambda rows: table[rows // anchors, 5 * anchors :]

    return read, classes
