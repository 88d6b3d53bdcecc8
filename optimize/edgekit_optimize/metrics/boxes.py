"""Detection metrics: average precision against labelled boxes, and overlap with another model's boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item

MATCH_IOU = 0.5
_CHUNK = 4_000_000
Items = Sequence[Sequence[Item]]


@dataclass(frozen=True, eq=False)
class Judged:
    """One class's detections matched against the labels, highest score first.

    ``image`` is the sample of each detection and ``is_right`` whether it matched a labelled box.
    ``group_ends`` are the last indices of each run of equal scores, whose order is arbitrary.
    ``positives`` is the number of labelled boxes in each sample.
    """

    image: NDArray[np.int64]
    is_right: NDArray[np.bool_]
    group_ends: NDArray[np.int64]
    positives: NDArray[np.int64]


def overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes, shape (n, m).

    >>> overlap(np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]

    Args:
        first: Shape (n, 4): left, top, right, bottom.
        second: Shape (m, 4).
    """
    a, b = first[:, None, :].astype(np.float64), second[None, :, :].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=2)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=2) for boxes in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def judge(
    predictions: Items, truth: Sequence[NDArray[np.float32]], classes: Sequence[str]
) -> dict[int, Judged]:
    """Return the detections matched to the labelled boxes, for each class that has labels.

    In order of score, each detection takes the box it overlaps most, if the overlap is at least half;
    further detections of the same box are wrong.

    Args:
        predictions: The items of each sample; items without a box are ignored.
        truth: The boxes of each sample, (k, 5): class, left, top, right, bottom.
        classes: Class names to match item labels with; empty to match by index.

    Source: PASCAL VOC 2012, detection task, with boxes matched greedily.
    """
    numbers = {name.casefold(): index for index, name in reversed(list(enumerate(classes)))}
    grouped = [_by_class(items, numbers) for items in predictions]
    judged = {}
    for kind in sorted({int(kind) for boxes in truth for kind in boxes[:, 0]}):
        scores: list[float] = []
        images: list[int] = []
        right: list[bool] = []
        for image, (groups, boxes) in enumerate(zip(grouped, truth, strict=True)):
            detections = groups.get(kind, [])
            scores += [_sure(item) for item in detections]
            images += [image] * len(detections)
            right += _matched(detections, boxes[boxes[:, 0] == kind, 1:])
        positives = np.array([int((boxes[:, 0] == kind).sum()) for boxes in truth], np.int64)
        judged[kind] = _sorted(
            np.array(scores), np.array(images, np.int64), np.array(right, np.bool_), positives
        )
    return judged


def _sorted(
    scores: NDArray[np.float64],
    images: NDArray[np.int64],
    right: NDArray[np.bool_],
    positives: NDArray[np.int64],
) -> Judged:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], np.True_)) if len(ordered) else order
    return Judged(images[order], right[order], ends.astype(np.int64), positives)


def mean_precision(judged: dict[int, Judged], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean average precision over classes, for each weighting of the samples.

    Average precision is the area below the precision-recall envelope, with one point per distinct score.

    Args:
        judged: As ``judge`` returns it.
        weights: How often each sample counts, shape (rounds, n).

    Returns:
        Shape (rounds,), 0 to 1; classes without a counted sample are ignored; 0 if there are none.
    """
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for detections in judged.values():
        step = max(1, _CHUNK // max(1, len(detections.image)))
        for start in range(0, len(weights), step):
            part = weights[start : start + step]
            precision, has_any = _average_precision(detections, part)
            total[start : start + step] += precision
            counted[start : start + step] += has_any
    return total / np.maximum(counted, 1)


def _average_precision(
    detections: Judged, weights: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    positives = weights @ detections.positives
    has_any = positives > 0
    if not len(detections.image):
        return np.zeros(len(weights)), has_any
    counts = weights[:, detections.image]
    right = np.cumsum(counts * detections.is_right, axis=1)[:, detections.group_ends]
    all_of = np.cumsum(counts, axis=1)[:, detections.group_ends]
    precision = right / np.maximum(all_of, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    gained = np.diff(right, axis=1, prepend=0) / np.maximum(positives, 1)[:, None]
    return (envelope * gained).sum(axis=1), has_any


def image_scores(judged: dict[int, Judged], count: int) -> NDArray[np.float64]:
    """Return each sample's F1 score; 1 for a sample without labelled or detected boxes."""
    right, detected, labelled = np.zeros(count), np.zeros(count), np.zeros(count)
    for detections in judged.values():
        right += np.bincount(detections.image, weights=detections.is_right, minlength=count)
        detected += np.bincount(detections.image, minlength=count)
        labelled += detections.positives
    total = detected + labelled
    return np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)


def overlap_with(reference: Sequence[Item], candidate: Sequence[Item]) -> float:
    """Return the mean overlap of one sample's boxes with another model's boxes of the same label.

    Boxes are paired greedily by overlap; an unpaired box of either model counts as 0. The result is 1
    if neither model has boxes.
    """
    reference_items, candidate_items = (
        [item for item in items if item.extent() is not None] for items in (reference, candidate)
    )
    if not reference_items and not candidate_items:
        return 1.0
    first, second = _array(reference_items), _array(candidate_items)
    table = overlap(first, second)
    table[(first[:, None] == second[None]).all(axis=2)] = (
        1.0  # equal boxes without an area, clipped at an edge
    )
    same = np.array(
        [[a.label == b.label for b in candidate_items] for a in reference_items], np.bool_
    ).reshape(table.shape)
    table = np.where(same & np.isfinite(table), table, 0.0)
    total, pairs = 0.0, 0
    while table.size and (best := float(table.max())) > 0:
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        table[row, :] = 0.0
        table[:, column] = 0.0
        total, pairs = total + best, pairs + 1
    return total / (len(reference_items) + len(candidate_items) - pairs)


def _matched(items: Sequence[Item], boxes: NDArray[np.float32]) -> list[bool]:
    table = overlap(_array(items), boxes)
    right = []
    for row in table:
        best = int(row.argmax()) if len(row) else -1
        is_right = best >= 0 and bool(row[best] >= MATCH_IOU)
        if is_right:
            table[:, best] = 0.0  # each box is matched once
        right.append(is_right)
    return right


def _array(items: Sequence[Item]) -> NDArray[np.float32]:
    return np.array([item.extent() for item in items], np.float32).reshape(-1, 4)


def _by_class(items: Sequence[Item], numbers: dict[str, int]) -> dict[int, list[Item]]:
    """Return the items that have a box, by class, highest score first."""
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: -_sure(item)):
        if item.extent() is not None:
            kind = numbers.get(item.label.casefold(), -1) if numbers else item.index
            groups.setdefault(kind, []).append(item)
    return groups


def _sure(item: Item) -> float:
    return item.score if item.score is not None and np.isfinite(item.score) else 0.0
