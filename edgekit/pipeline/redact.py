"""Hides redacted labels in the frame itself, before anything encodes or shows it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from edgekit.core.egress import PLACES
from edgekit.core.errors import ConfigError
from edgekit.core.spec import Box, Prediction
from edgekit.core.tasks import TASKS
from edgekit.pipeline.pre import vision
from edgekit.pipeline.predictor import Predictor

CELLS = 6
"""A blurred box keeps this many averages a side; with more a face could be recognised."""


def pixel_box(box: Box, width: int, height: int, margin_ratio: float = 0.0) -> tuple[int, int, int, int]:
    """Return whole pixels that cover a box and its margin, cut at the image's edges.

    >>> pixel_box((10.5, 10, 20, 20.1), 100, 100), pixel_box((-5, 0, 10, 10), 8, 8, 0.5)
    ((10, 10, 20, 21), (0, 0, 8, 8))
    """
    left, top, right, bottom = box
    x, y = (right - left) * margin_ratio, (bottom - top) * margin_ratio
    return (
        max(0, math.floor(left - x)),
        max(0, math.floor(top - y)),
        min(width, math.ceil(right + x)),
        min(height, math.ceil(bottom + y)),
    )


def hide(pixels: NDArray[Any], boxes: Iterable[Box], style: str, margin_ratio: float = 0.0) -> None:
    """Hide boxes of an image in place.

    Args:
        pixels: Image, shape (height, width, 3), uint8, writable.
        boxes: In its pixels: left, top, right, bottom.
        style: ``fill`` makes them black; ``blur`` leaves 6 x 6 averages, smoothly joined.
        margin_ratio: How much of its width and height each box grows on each side.
    """
    height, width = pixels.shape[:2]
    for box in boxes:
        left, top, right, bottom = pixel_box(box, width, height, margin_ratio)
        if left >= right or top >= bottom:
            continue
        part = pixels[top:bottom, left:right]
        if style == "fill":
            part[:] = 0
            continue
        cv2 = vision()
        cells = (min(CELLS, right - left), min(CELLS, bottom - top))
        small = cv2.resize(part, cells, interpolation=cv2.INTER_AREA)
        part[:] = cv2.resize(small, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)


def check_redact(redact: Sequence[str], predictor: Predictor, others: Collection[str] = ()) -> None:
    """Check that a model can find the labels of ``[privacy] redact``, in upper or lower case.

    ``others``: what later stages of the pipeline find, in crops of this model's items.

    Raises:
        ConfigError: Its items have no boxes, or it has no such label.
    """
    if not redact:
        return
    manifest = predictor.manifest
    if not _says_where(manifest.task):
        raise ConfigError(
            f"privacy.redact: want a model that finds boxes, got {manifest.model} {manifest.version}"
            f" for the task {manifest.task!r}",
            hint="without boxes nothing can be hidden: take 'redact' out, or use a detector",
        )
    require_labels(redact, predictor, others)


def require_labels(redact: Sequence[str], predictor: Predictor, others: Collection[str] = ()) -> None:
    """Check that a model, or one of those with the labels ``others``, can find the labels to hide.

    Raises:
        ConfigError: None has such a label.
    """
    name = f"{predictor.manifest.model} {predictor.manifest.version}"
    known = {label.casefold() for label in (*predictor.labels, *others)} | {"*"}
    if missing := [label for label in redact if label.casefold() not in known]:
        raise ConfigError(
            f"privacy.redact: {name} has no label {', '.join(map(repr, missing))}",
            reasons=(f"its labels: {', '.join(predictor.labels) or 'none'}",),
            hint='name one of its labels, or "*" for everything that it finds',
        )


def _says_where(task: str) -> bool:
    return task in TASKS and not PLACES.isdisjoint(TASKS[task].egress)


class Redactor:
    """Hides the items of some labels, and their positions for ``hold`` more frames.

    It hides the upright box around an item's box, oriented box and mask.

    Args:
        labels: In upper or lower case; ``"*"`` is everything that has a position in the picture.
        style: As for ``hide``.
        margin_ratio: As for ``hide``.
        hold: A detector loses an object now and then.
    """

    def __init__(self, labels: Sequence[str], style: str, margin_ratio: float, hold: int) -> None:
        self._labels = frozenset(label.casefold() for label in labels)
        self._style, self._margin_ratio = style, margin_ratio
        self._recent: deque[list[Box]] = deque(maxlen=hold + 1)
        self._size = (0, 0)

    def apply(self, pixels: NDArray[Any], prediction: Prediction) -> None:
        """Hide the items of this prediction and of the last ones.

        A prediction without positions makes the whole frame black.
        """
        if not self._labels or pixels.ndim != 3:
            return
        named = [
            item.extent()
            for item in prediction.items
            if not self._labels.isdisjoint((item.label.casefold(), "*"))
        ]
        if None in named or not _says_where(prediction.task):
            pixels[:] = 0
            return
        self._resize(pixels.shape[1], pixels.shape[0])
        self._recent.append([box for box in named if box is not None])
        hide(pixels, {box for boxes in self._recent for box in boxes}, self._style, self._margin_ratio)

    def _resize(self, width: int, height: int) -> None:
        """Move what is held where the source's frames have another size than before."""
        (old_width, old_height), self._size = self._size, (width, height)
        if self._recent and self._size != (old_width, old_height):
            x, y = width / old_width, height / old_height
            for boxes in self._recent:
                boxes[:] = [(left * x, top * y, right * x, bottom * y) for left, top, right, bottom in boxes]
