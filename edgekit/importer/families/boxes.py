"""What several families of detectors conclude alike: cells, labels, and by the answers what numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.label_sets import assumed_labels
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import names_of
from edgekit.importer.trial import image_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LARGEST_SHARE = 4.0
"""A box's share of the input is at most a little over 1; a box in pixels of 4 at most would be no object."""
_LARGEST_SCORE, _LARGEST_PERCENT = 1.5, 130.0
"""A score of 1 may be written as a little more after quantisation; a percentage is far above."""
_LEAST_LOGIT, _LOWEST_LOGIT = -0.05, -200.0
_MOST_INSIDE, _FEW_INSIDE = 0.95, 0.7
"""Shares of cells that lie in the box of their row: of the right reading, and of a wrong one."""


def units_of(boxes: Sequence[NDArray[np.float32]], assumed: str, why: str) -> Finding:
    """Return whether boxes are pixels of the input or shares of its sides, by the largest value.

    Args:
        boxes: The four numbers of every box, for each picture tried; empty if nothing was tried.
        assumed: "pixels" or "shares", what the family writes, where nothing was tried.
        why: Whose convention that is.
    """
    finite = [array[np.isfinite(array)] for array in boxes]
    largest = max((float(array.max()) for array in finite if array.size), default=None)
    if largest is None:
        return Finding("units", assumed, "assumed", why)
    units = "pixels" if largest > _LARGEST_SHARE else "shares"
    return Finding("units", units, "tried", f"the largest number of a box is {largest:.4g}")


def order_of(
    boxes: Sequence[NDArray[np.float32]], cells: NDArray[np.float32], is_shares: bool
) -> Finding | None:
    """Return whether a dense detector's boxes are corners or centre and size, or None where it is unclear.

    The cell of a row lies in the row's box. Corners hold it only if they are read as corners, since a box
    read wrongly ends at its width; centre and size are told by that they do not.

    Args:
        boxes: The four numbers of each row, for each picture tried, shape (..., n, 4).
        cells: As ``centres_of`` returns them, shape (n, 5).
        is_shares: Whether boxes are shares of the input's sides.
    """
    rows = [array.reshape(-1, 4) for array in boxes]
    if not rows or any(len(row) != len(cells) for row in rows):
        return None
    table = np.stack(rows).astype(np.float64) * (cells[0, [3, 4, 3, 4]] if is_shares else 1.0)
    centre, reach = cells[:, :2], cells[:, 2:3]

    def inside(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
        return float(((low - reach <= centre) & (centre <= high + reach) & (low < high)).all(axis=-1).mean())

    half = table[..., 2:] / 2
    corners, middle = (
        inside(table[..., :2], table[..., 2:]),
        inside(table[..., :2] - half, table[..., :2] + half),
    )
    why = f"as corners {corners:.0%} of the boxes hold their cell, as centre and size {middle:.0%}"
    if corners >= _MOST_INSIDE:
        return Finding("box", "xyxy", "tried", why)
    return Finding("box", "cxcywh", "tried", why) if corners <= _FEW_INSIDE <= middle else None


def centres_of(file: ModelFile, strides: Sequence[int], anchors: int = 1) -> NDArray[np.float32]:
    """Return each row's cell: x and y of its centre, its stride, and the input's width and height, in pixels.

    Shape (rows, 5); strides in turn, anchors before rows before columns.
    """
    (height, width), _ = image_size(file)
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        middle = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride
        rest = np.tile([stride, width, height], (len(middle), 1))
        parts += [np.concatenate([middle, rest], axis=1)] * anchors
    return np.concatenate(parts).astype(np.float32)


def scores_of(scores: Sequence[NDArray[np.float32]], why: str) -> tuple[Finding, ...] | None:
    """Return how scores become probabilities, by their range; None where they can be no scores.

    Args:
        scores: Every number that is a score, for each picture tried; empty if nothing was tried.
        why: Whose convention probabilities are.
    """
    finite = [array[np.isfinite(array)] for array in scores]
    low = min((float(array.min()) for array in finite if array.size), default=None)
    high = max((float(array.max()) for array in finite if array.size), default=None)
    if low is None or high is None:
        return (Finding("activation", "none", "assumed", why),)
    seen = f"scores from {low:.3g} to {high:.3g}"
    if low >= _LEAST_LOGIT and high <= _LARGEST_SCORE:
        return (Finding("activation", "none", "tried", seen),)
    if low >= _LEAST_LOGIT and high <= _LARGEST_PERCENT:
        return (Finding("score_scale", 100.0, "tried", seen),)
    if low < _LEAST_LOGIT and high < -_LOWEST_LOGIT and low > _LOWEST_LOGIT:
        return (Finding("activation", "sigmoid", "tried", f"{seen}: logits"),)
    return None


def cells_of(file: ModelFile, strides: Sequence[int]) -> list[int]:
    """Return how many cells each stride makes over the file's picture; the last ones may reach beyond it."""
    (height, width), _ = image_size(file)
    return [-(-height // stride) * -(-width // stride) for stride in strides]


def labels_of(file: ModelFile, classes: int) -> tuple[tuple[Finding, ...], dict[str, str]]:
    """Return the finding of the labels, or what to ask: the file's own, else a known list of that length.

    Raises:
        BundleError: The file or the label file beside it names another number of classes, the user none.
    """
    names = names_of(file.metadata.get("names")) or file.labels
    if names and (len(names) == classes or "labels" not in file.flags):
        if len(names) != classes:
            carrier = file.labels_from or file.metadata_from
            raise BundleError(
                f"{file.path}: {carrier} names {len(names)} classes, its outputs have {classes}",
                hint="they are of different models: export the file again, or state its own with --labels",
            )
        return (Finding("labels", names, "metadata", file.labels_from or file.metadata_from),), {}
    name, assumed = assumed_labels(classes)
    if assumed:
        return (Finding("labels", assumed, "assumed", f"{classes} classes: {name}"),), {}
    return (), {"labels": f"{classes} classes, and the file has no names"}


def convention(why: str, **values: Any) -> tuple[Finding, ...]:
    """Return findings that a family's convention alone says."""
    return tuple(Finding(key, value, "assumed", why) for key, value in values.items())


def largest(file: ModelFile, output: FileTensor, columns: slice) -> float | None:
    """Return the largest finite number of these columns of the last axis, over every answer, or None."""
    parts = [array[..., columns] for array in file.tried.get(output.name, ())]
    finite = [part[np.isfinite(part)] for part in parts]
    return max((float(part.max()) for part in finite if part.size), default=None)
