"""What every detector's decoder ends with: thresholds, suppression, and items in the picture's pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item, Mask
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Setup, check_labels, label_of
from edgekit.pipeline.decoders.nms import MAX_KEPT, best_first, suppress
from edgekit.pipeline.decoders.oriented import shared_area, to_oriented
from edgekit.pipeline.pre import Placement

MAX_ORIENTED = 2000
"""The most oriented candidates: each is compared with every better one."""
_ORIENTED = 5  # columns: centre x, centre y, width, height, angle
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Corners = Literal["xyxy", "yxyx", "cxcywh"]
"""Left, top, right, bottom; top, left, bottom, right; or centre x, centre y, width, height."""
Background = Literal["", "first", "last"]
Units = Literal["pixels", "shares"]
"""Pixels of the model's input, or shares of its width and height (0 to 1)."""


class DetectOptions(Options, frozen=True, kw_only=True):
    """What every detector's ``post.options`` may have.

    ``nms``: boxes suppress only those of their own class, those of all classes, or none (where the model
    has done it). ``class_thresholds``: by label, in place of ``score_threshold``.
    """

    nms: Literal["class", "agnostic", "none"] = "class"
    class_thresholds: dict[str, Share] = msgspec.field(default_factory=dict)


@dataclass(slots=True)
class Extras:
    """What the kept items have besides a box.

    ``points``: shape (n, K, 2), in pixels of the input; ``point_scores``: (n, K). An item that is not
    ``is_seen`` is dropped.
    """

    points: NDArray[np.float32] | None = None
    point_scores: NDArray[np.float32] | None = None
    names: tuple[str, ...] = ()
    masks: Sequence[Mask | None] | None = None
    is_seen: Sequence[bool] | None = None

    def fields(self, placement: Placement | None) -> list[dict[str, Any]]:
        """Return each item's fields, in the picture's pixels."""
        columns: dict[str, Iterable[Any]] = {}
        if self.points is not None:
            moved = self.points if placement is None else placement.points_to_source(self.points)
            columns["points"] = [tuple((x, y) for x, y in row) for row in moved.tolist()]
            columns["point_names"] = [self.names] * len(moved)
        if self.point_scores is not None:
            columns["point_scores"] = [tuple(row) for row in self.point_scores.tolist()]
        if self.masks is not None:
            columns["mask"] = self.masks
        if self.is_seen is not None:
            columns["is_seen"] = self.is_seen
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Finish:
    """The end of one detector's decoding; ``background`` is the column of the scores that means "nothing".

    Attributes:
        columns: The columns of the scores that are classes, as a slice.
        bound: No score below it can become an item.
    """

    def __init__(
        self, setup: Setup, options: DetectOptions, classes: int, background: Background = ""
    ) -> None:
        has_first, has_last = background == "first", background == "last"
        self.columns = slice(int(has_first), -1 if has_last else None)
        if has_last and classes > 0:
            classes -= 1
        self.labels = check_labels(setup, classes, has_background=has_first)
        self._setup, self._nms = setup, options.nms
        self.size = size_of(setup)
        self.bound, self._thresholds = _thresholds(setup, options, self.labels)

    def unit(self, units: Units) -> NDArray[np.float32]:
        """Return what 1 is in pixels, in x and in y."""
        return self.size if units == "shares" else np.ones(2, np.float32)

    def best(
        self, scores: NDArray[np.float32], bound: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Return (row, class, score) of the rows of (n, classes) whose best class reaches ``bound``."""
        scores = scores[:, self.columns]
        if not scores.shape[1]:  # argmax refuses a model of no classes, max does not
            return _NONE, _NONE, _NO_SCORE
        rows = _reaching(scores, bound)
        if not len(rows):
            return _NONE, _NONE, _NO_SCORE
        found = scores[rows]
        which = found.argmax(axis=1)
        return rows, which + (self.columns.start or 0), found[np.arange(len(rows)), which]

    def keep(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Return the indices of the candidates that become items, best first, at most 300.

        Args:
            boxes: Shape (n, 4): left, top, right, bottom; or (n, 5): centre, width, height, angle.
            scores: Shape (n,).
            classes: Shape (n,).
        """
        passing = np.arange(len(scores))
        if self._thresholds is not None:
            known = np.clip(classes, 0, len(self._thresholds) - 1)
            passing = np.flatnonzero(scores >= self._thresholds[known])
            boxes, scores, classes = boxes[passing], scores[passing], classes[passing]
        if self._nms == "none":
            return passing[best_first(scores, MAX_KEPT)]
        groups = np.zeros_like(classes) if self._nms == "agnostic" else classes
        iou = self._setup.post.iou_threshold
        if boxes.shape[1] == _ORIENTED:
            kept = suppress(boxes, scores, groups, iou, MAX_ORIENTED, shared_area, is_fast=True)
            return passing[kept]
        return passing[suppress(boxes, scores, groups, iou)]

    def items(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.intp],
        placement: Placement | None,
        extras: Extras | None = None,
    ) -> tuple[Item, ...]:
        """Return the items of kept candidates, in their order.

        Args:
            boxes: As for ``keep``, in pixels of the input.
            scores: Shape (n,); above 1 (a quantised output's last step) is 1.
            classes: Shape (n,).
            placement: The position of the picture; without it the items stay in pixels of the input.
            extras: Their points and masks.
        """
        if boxes.shape[1] == _ORIENTED:
            places: list[dict[str, Any]] = [{"oriented_box": to_oriented(box, placement)} for box in boxes]
        else:
            moved = (boxes if placement is None else placement.to_source(boxes)).tolist()
            places = [{"box": tuple(box)} for box in moved]
        rest: list[dict[str, Any]] = [{} for _ in boxes] if extras is None else extras.fields(placement)
        rows = zip(np.minimum(scores, 1).tolist(), classes.tolist(), places, rest, strict=True)
        return tuple(
            Item(label=label_of(self.labels, index), score=score, index=index, **place, **more)
            for score, index, place, more in rows
            if more.pop("is_seen", True)
        )


_NONE, _NO_SCORE = np.empty(0, np.intp), np.empty(0, np.float32)


def _reaching(scores: NDArray[np.float32], bound: float) -> NDArray[np.intp]:
    """Return the rows of (n, classes) with a score from ``bound`` on."""
    if scores.strides[0] < scores.strides[1]:
        return np.flatnonzero(scores.max(axis=1) >= bound)
    # where a row's scores lie side by side NumPy takes 10 times as long for a maximum as to compare them all
    cells = (scores >= bound).ravel().nonzero()[0]
    if not len(cells):
        return _NONE
    rows = cells // scores.shape[1]
    is_first = np.ones(len(rows), bool)
    np.greater(rows[1:], rows[:-1], out=is_first[1:])
    return np.asarray(rows[is_first], np.intp)


def size_of(setup: Setup) -> NDArray[np.float32]:
    """Return width and height of the model's input in pixels, shape (2,).

    Raises:
        BundleError: It takes no images.
    """
    if setup.input_size is None:
        raise BundleError(f"{setup.what}: the {setup.post.decoder!r} decoder needs an image model")
    return np.array(setup.input_size, np.float32)


def bounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values clipped to +-10,000,000: beyond any picture, and no product of two overflows."""
    return clipped(values, -1e7, 1e7)


def clipped(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Return float32 values clipped: ``np.clip`` takes three times as long for the few of a frame."""
    found: NDArray[np.float32] = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
    return found


def to_corners(boxes: NDArray[np.float32], order: Corners) -> NDArray[np.float32]:
    """Return boxes of shape (n, 4) as left, top, right, bottom.

    >>> to_corners(np.float32([[5, 6, 4, 2]]), "cxcywh").tolist()
    [[3.0, 5.0, 7.0, 7.0]]
    """
    if order == "xyxy":
        return boxes
    if order == "yxyx":
        return boxes[:, [1, 0, 3, 2]]
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def logit(probability: float) -> float:
    """Return the inverse of ``sigmoid``; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``1 / (1 + e**-x)``; values beyond +-80 are as good as infinite in float32."""
    return np.asarray(1 / (1 + np.exp(-clipped(values, -80, 80))), np.float32)


def _thresholds(
    setup: Setup, options: DetectOptions, labels: tuple[str, ...]
) -> tuple[float, NDArray[np.float32] | None]:
    """Return the lowest threshold, and one for each class if they differ."""
    usual, own = setup.post.score_threshold, options.class_thresholds
    if not own:
        return usual, None
    if unknown := [name for name in own if name not in labels]:
        raise BundleError(
            f"{setup.what}: post.options.class_thresholds: want labels of the model, got {unknown[0]!r}",
            reasons=tuple(f"got {name!r}" for name in unknown[1:]),
            hint=f"the labels are {', '.join(filter(None, labels)) or 'missing'}",
        )
    by_class = np.array([own.get(label, usual) for label in labels], np.float32)
    return float(by_class.min()), by_class
