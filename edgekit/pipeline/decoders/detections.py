"""Boxes from models that end with a list of detections, by suppression inside or without need of it.

Either an output ``rows`` [1, M, K] or [M, K], whose ``columns`` say what each number is, followed by what
``ExtraOptions`` name; or the outputs ``boxes`` [1, M, 4] and ``scores`` [1, M], with ``classes`` [1, M] and
maybe ``count`` [1] (without ``scores``: ``boxes`` [1, M, 5], the score last); or ``boxes`` [1, N, 4],
``scores`` [1, C, N] and ``selected`` [M, 3] (ONNX NonMaxSuppression: batch, class, row). Options:
``columns``, ``box`` (of the output ``boxes``), ``units``, ``first_class`` (the number of the first label),
``nms`` (default ``none``).

Families: YOLOv10 and 26 end to end, Ultralytics' and LibreYOLO's ``nms=True``, RT-DETR by Ultralytics,
PicoDet with postprocessing, TFLite_Detection_PostProcess, torchvision's SSD; RT-DETR, D-FINE and DEIM by
their official repositories, EfficientNMS, YOLO-NAS flat and in four lists, OpenVINO DetectionOutput,
MMDeploy's two lists, EfficientDet with its bench, ONNX NonMaxSuppression outside (no real file seen of
these).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.extras import ExtraOptions, ExtraReader
from edgekit.pipeline.decoders.items import Corners, Finish, Units, bounded, to_corners

Floats = NDArray[np.float32]
Column = Literal["left", "top", "right", "bottom", "cx", "cy", "width", "height", "score", "class", "skip"]
_CORNERS = ("left", "top", "right", "bottom")
_CENTRE = ("cx", "cy", "width", "height")
Listed = tuple[Floats, Floats, Floats, Floats]
"""Boxes (n, 4) in the order of the options, scores (n,), classes (n,) as numbers, extras (n, E)."""


class DetectionsOptions(ExtraOptions, frozen=True, kw_only=True):
    """``post.options`` of a model that ends with detections; see the module."""

    nms: Literal["class", "agnostic", "none"] = "none"
    columns: tuple[Column, ...] = (*_CORNERS, "score", "class")  # type: ignore[assignment]
    box: Corners = "xyxy"
    units: Units = "pixels"
    first_class: int = 0

    def problems(self) -> list[str]:
        """Return what contradicts itself."""
        named = [str(name) for name in self.columns if name != "skip"]
        if sorted(named) not in [sorted((*group, "score", "class")) for group in (_CORNERS, _CENTRE)]:
            want = f"score, class and {', '.join(_CORNERS)} or {', '.join(_CENTRE)}, once each"
            return [*super().problems(), f"columns: want {want}, got {', '.join(named)}"]
        if self.angle and "cx" not in named:
            return [*super().problems(), "angle: want the columns cx, cy, width, height"]
        return super().problems()

    def order(self) -> Corners:
        """Return what the four numbers of a box are, taken in the order of ``_CORNERS`` or ``_CENTRE``."""
        return "cxcywh" if "cx" in self.columns else "xyxy"


def build(setup: Setup) -> Decoder:
    """Return a decoder: the rows over the threshold, best first, at most 300."""
    options = options_of(setup, DetectionsOptions)
    finish = Finish(setup, options, -1)
    unit = finish.unit(options.units)
    edges = np.tile(unit, 2)
    extras = ExtraReader(setup, options, unit)
    is_rows = "rows" in setup.shapes
    read = _row_reader(setup, options) if is_rows else _list_reader(setup, options)
    order = options.order() if is_rows else options.box

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        boxes, scores, classes, more = read(outcome)
        passing = np.flatnonzero((scores >= finish.bound) & (classes >= options.first_class))
        if not len(passing):
            return ()
        boxes, scores = bounded(boxes[passing]), scores[passing]
        which = np.rint(bounded(classes[passing])).astype(np.intp) - options.first_class
        if options.angle:
            boxes = np.concatenate([boxes * edges, bounded(more[passing])], axis=1)
        else:
            boxes = to_corners(boxes, order) * edges
        kept = finish.keep(boxes, scores, which)
        boxes = boxes[kept]
        found = extras.read(bounded(more[passing[kept]]), boxes, outcome)
        return finish.items(boxes, scores[kept], which[kept], outcome.placement, found)

    return decode


def _row_reader(setup: Setup, options: DetectionsOptions) -> Callable[[Outcome], Listed]:
    names, width = options.columns, len(options.columns) + options.width()
    shape = setup.shapes["rows"]
    want = (*(1,) * (len(shape) - 2), -1, width)
    shape_of(setup, "rows", want)
    box = [names.index(name) for name in (_CENTRE if "cx" in names else _CORNERS)]
    score, which, first = names.index("score"), names.index("class"), len(names)

    def read(outcome: Outcome) -> Listed:
        rows = outcome.tensors["rows"].reshape(-1, width)
        return rows[:, box], rows[:, score], rows[:, which], rows[:, first:]

    return read


def _list_reader(setup: Setup, options: DetectionsOptions) -> Callable[[Outcome], Listed]:
    if options.width():
        raise BundleError(f"{setup.what}: keypoints, angle and masks need an output 'rows'")
    if "selected" in setup.shapes:
        return _selected_reader(setup)
    has_scores = "scores" in setup.shapes
    width = 4 if has_scores else 5
    count = _length(setup, "boxes", width)
    for name in ("scores", "classes") if has_scores else ("classes",):
        _length(setup, name, None, count)

    def read(outcome: Outcome) -> Listed:
        tensors = outcome.tensors
        boxes = tensors["boxes"].reshape(-1, width)
        number = len(boxes)
        if "count" in tensors:
            number = min(number, max(0, round(float(tensors["count"].reshape(-1)[0]))))
        scores = tensors["scores"].reshape(-1)[:number] if has_scores else boxes[:number, 4]
        return boxes[:number, :4], scores, tensors["classes"].reshape(-1)[:number], boxes[:number, width:]

    return read


def _length(setup: Setup, name: str, width: int | None, count: int = -1) -> int:
    """Return the number of detections in an output of shape [1, M, width], or without the 1 or the width."""
    tail = () if width is None else (width,)
    is_batched = len(setup.shapes.get(name, ())) != 1 + len(tail)
    return shape_of(setup, name, (*(1,) * is_batched, count, *tail))[int(is_batched)]


def _selected_reader(setup: Setup) -> Callable[[Outcome], Listed]:
    count = shape_of(setup, "boxes", (1, -1, 4))[1]
    shape_of(setup, "scores", (1, -1, count))
    shape_of(setup, "selected", (-1, 3))

    def read(outcome: Outcome) -> Listed:
        boxes, scores = outcome.tensors["boxes"][0], outcome.tensors["scores"][0]
        _, classes, rows = bounded(outcome.tensors["selected"]).reshape(-1, 3).T.astype(np.intp)
        inside = (classes >= 0) & (classes < len(scores)) & (rows >= 0) & (rows < len(boxes))
        classes, rows = classes[inside], rows[inside]
        return boxes[rows], scores[classes, rows], classes.astype(np.float32), boxes[rows, 4:]

    return read
