"""Non-maximum suppression in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MAX_CANDIDATES = 5000
"""Candidates beyond these are dropped first. Source: COCO's evaluation at confidence .01 needs under 3000."""
MAX_KEPT = 300
"""The most boxes of one frame. Source: ``max_det`` of the YOLO exporters."""

Overlap = Callable[["NDArray[np.float32]", "NDArray[np.float32]"], "NDArray[np.float32]"]
"""From boxes of shape (k, ...) each to the share they have in common; the shapes after k broadcast."""
_BLOCK = 128


def best_first(scores: NDArray[np.float32], count: int = MAX_CANDIDATES) -> NDArray[np.intp]:
    """Return the indices of the ``count`` highest scores; of equal ones the lower index comes first.

    >>> best_first(np.float32([0.1, 0.7, 0.7, 0.2]), 3).tolist()
    [1, 2, 3]
    """
    candidates = np.arange(len(scores))
    if count < len(scores):  # sorting a thousand classes takes longer than to find the least that counts
        candidates = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes; 0 where both are empty.

    >>> overlap(np.float32([0, 0, 2, 1])[:, None], np.float32([[1, 2], [0, 0], [3, 4], [1, 1]])).tolist()
    [0.3333333432674408, 0.0]

    Args:
        first: Shape (4, ...): left, top, right, bottom.
        second: Shape (4, ...); the shapes after the 4 broadcast.

    Returns:
        The broadcast shape, 0 to 1.
    """
    wide = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    high = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    union = _area(first) + _area(second) - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0), np.float32)


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(boxes[2] - boxes[0], 0) * np.maximum(boxes[3] - boxes[1], 0), np.float32)


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    iou_threshold: float,
    limit: int = MAX_CANDIDATES,
    overlaps: Overlap = overlap,
    *,
    is_fast: bool = False,
) -> NDArray[np.intp]:
    """Return the indices of the boxes to keep, best first, at most 300.

    Of the ``limit`` best, one is kept unless a better kept one of its class overlaps it by more than
    ``iou_threshold``; with ``is_fast`` a better one that was not kept counts too.

    >>> boxes = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]])
    >>> suppress(boxes, np.float32([0.9, 0.8, 0.8]), np.array([0, 0, 1]), 0.5).tolist()
    [0, 2]

    Args:
        boxes: Shape (n, k): left, top, right, bottom, or what ``overlaps`` takes.
        scores: Shape (n,).
        classes: Shape (n,); boxes of different classes never suppress each other.
        iou_threshold: 0 to 1.
        limit: The most candidates.
        overlaps: The share that two boxes have in common.
        is_fast: Suppress by what was itself suppressed, as the exporters do with oriented boxes.
    """
    order = best_first(scores, limit)
    if len(order) < 2:  # most frames with anything in them: nothing to compare
        return order
    columns, which = np.ascontiguousarray(boxes[order].T), classes[order]
    bound = np.float32(iou_threshold)

    def clash(first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
        shared = overlaps(columns[:, first, None], columns[:, None, second])
        return np.asarray((shared > bound) & (which[first, None] == which[second]))

    kept: list[int] = []
    for start in range(0, len(order), _BLOCK):  # all pairs at once would take n * n of memory
        block = np.arange(start, min(start + _BLOCK, len(order)))
        if is_fast:
            better = np.triu(clash(np.arange(start + len(block)), block), 1 - start)
            kept += block[~better.any(axis=0)].tolist()
        else:
            if kept:
                block = block[~clash(np.array(kept, np.intp), block).any(axis=0)]
            kept += _greedy(block, clash(block, block))
        if len(kept) >= MAX_KEPT:
            break
    return order[np.array(kept[:MAX_KEPT], np.intp)]


def _greedy(block: NDArray[np.intp], hits: NDArray[np.bool_]) -> list[int]:
    """Return those of a block, best first, that no kept one before them hits."""
    kept: list[int] = []
    alive = np.ones(len(block), bool)
    for position, index in enumerate(block.tolist()):
        if alive[position]:
            kept.append(index)
            alive &= ~hits[position]
    return kept


def blend(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], kept: NDArray[np.intp], iou_threshold: float
) -> NDArray[np.float32]:
    """Return each kept row as the mean of the rows that overlap it, weighted by their scores.

    Source: MediaPipe ``NonMaxSuppressionCalculator``, "weighted", which steadies BlazeFace's boxes.

    Args:
        boxes: Shape (n, 4 + anything): left, top, right, bottom, and more columns to average.
        scores: Shape (n,), above 0.
        kept: The result of ``suppress`` with this ``iou_threshold``.
        iou_threshold: 0 to 1.
    """
    columns = np.ascontiguousarray(boxes[:, :4].T)
    near = overlap(columns[:, kept, None], columns[:, None]) > iou_threshold
    near[np.arange(len(kept)), kept] = True
    weights = near * scores[None, :]
    return np.asarray(weights @ boxes / weights.sum(axis=1, keepdims=True), np.float32)
