"""Scores of detections: average precision against the truth, overlap with another model's boxes."""

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
    """One class's detections held against the truth, best first.

    ``image`` is the sample of each detection and ``is_right`` whether it matched; ``group_ends`` are
    the last places of each score, since detections of the same score have no order. ``positives`` is
    how many boxes the truth has in each sample.
    """

    image: NDArray[np.int64]
    is_right: NDArray[np.bool_]
    group_ends: NDArray[np.int64]
    positives: NDArray[np.int64]


def overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the intersection over union of every pair of boxes, shape (n, m).

    >>> overlap(np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]

    Args:
        one: Shape (n, 4): left, top, right, bottom.
        other: Shape (m, 4).
    """
    a, b = one[:, None, :].astype(np.float64), other[None, :, :].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=2)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=2) for boxes in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def judge(found: Items, truth: Sequence[NDArray[np.float32]], classes: Sequence[str]) -> dict[int, Judged]:
    """Match detections to the truth, class by class; for classes that the truth has.

    Within a sample the surest detection takes the box that it overlaps most, if by half or more; a
    second detection of that box is wrong.

    Args:
        found: The items of each sample; those without a box do not count.
        truth: The boxes of each sample, (k, 5): class, left, top, right, bottom.
        classes: The names of the classes, which items are known by; empty: by their index.

    Source: PASCAL VOC 2012, detection task, with boxes matched greedily.
    """
    numbers = {name.casefold(): place for place, name in reversed(list(enumerate(classes)))}
    grouped = [_by_class(items, numbers) for items in found]
    made = {}
    for kind in sorted({int(kind) for boxes in truth for kind in boxes[:, 0]}):
        scores: list[float] = []
        images: list[int] = []
        right: list[bool] = []
        for image, (groups, boxes) in enumerate(zip(grouped, truth, strict=True)):
            mine = groups.get(kind, [])
            scores += [_sure(item) for item in mine]
            images += [image] * len(mine)
            right += _matched(mine, boxes[boxes[:, 0] == kind, 1:])
        positives = np.array([int((boxes[:, 0] == kind).sum()) for boxes in truth], np.int64)
        made[kind] = _sorted(
            np.array(scores), np.array(images, np.int64), np.array(right, np.bool_), positives
        )
    return made


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
    """Return the mean over classes of the average precision, for each weighting of the samples.

    The area below the envelope of precision over recall, its points at the ends of each score.

    Args:
        judged: As ``judge`` returns it.
        weights: How often each sample counts, shape (rounds, n).

    Returns:
        Shape (rounds,), 0 to 1; a class that no counted sample has does not count; 0 where none has.
    """
    total, counted = np.zeros(len(weights)), np.zeros(len(weights))
    for one in judged.values():
        step = max(1, _CHUNK // max(1, len(one.image)))
        for start in range(0, len(weights), step):
            part = weights[start : start + step]
            precision, has_any = _average_precision(one, part)
            total[start : start + step] += precision
            counted[start : start + step] += has_any
    return total / np.maximum(counted, 1)


def _average_precision(
    one: Judged, weights: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    positives = weights @ one.positives
    has_any = positives > 0
    if not len(one.image):
        return np.zeros(len(weights)), has_any
    counts = weights[:, one.image]
    right = np.cumsum(counts * one.is_right, axis=1)[:, one.group_ends]
    all_of = np.cumsum(counts, axis=1)[:, one.group_ends]
    precision = right / np.maximum(all_of, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    gained = np.diff(right, axis=1, prepend=0) / np.maximum(positives, 1)[:, None]
    return (envelope * gained).sum(axis=1), has_any


def image_scores(judged: dict[int, Judged], count: int) -> NDArray[np.float64]:
    """Return for each sample 2 right / (2 right + wrong + missed), 1 where there is nothing at all."""
    right, found, wanted = np.zeros(count), np.zeros(count), np.zeros(count)
    for one in judged.values():
        right += np.bincount(one.image, weights=one.is_right, minlength=count)
        found += np.bincount(one.image, minlength=count)
        wanted += one.positives
    whole = found + wanted
    return np.where(whole > 0, 2 * right / np.maximum(whole, 1), 1.0)


def overlap_with(reference: Sequence[Item], found: Sequence[Item]) -> float:
    """Return the mean overlap of one sample's boxes with another model's boxes of the same label.

    Pairs are made from the largest overlap down; a box of either model without a partner counts as 0.
    Nothing found by both is 1.
    """
    wanted, given = ([item for item in items if item.extent() is not None] for items in (reference, found))
    if not wanted and not given:
        return 1.0
    one, other = _array(wanted), _array(given)
    table = overlap(one, other)
    table[(one[:, None] == other[None]).all(axis=2)] = 1.0  # boxes without an area, cut at an edge
    same = np.array([[a.label == b.label for b in given] for a in wanted], np.bool_).reshape(table.shape)
    table = np.where(same & np.isfinite(table), table, 0.0)
    total, pairs = 0.0, 0
    while table.size and (best := float(table.max())) > 0:
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        table[row, :] = 0.0
        table[:, column] = 0.0
        total, pairs = total + best, pairs + 1
    return total / (len(wanted) + len(given) - pairs)


def _matched(items: Sequence[Item], boxes: NDArray[np.float32]) -> list[bool]:
    table = overlap(_array(items), boxes)
    right = []
    for row in table:
        best = int(row.argmax()) if len(row) else -1
        is_right = best >= 0 and bool(row[best] >= MATCH_IOU)
        if is_right:
            table[:, best] = 0.0  # a box is found once
        right.append(is_right)
    return right


def _array(items: Sequence[Item]) -> NDArray[np.float32]:
    return np.array([item.extent() for item in items], np.float32).reshape(-1, 4)


def _by_class(items: Sequence[Item], numbers: dict[str, int]) -> dict[int, list[Item]]:
    """Return the items that have a place in the picture by their class, the surest first."""
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: -_sure(item)):
        if item.extent() is not None:
            kind = numbers.get(item.label.casefold(), -1) if numbers else item.index
            groups.setdefault(kind, []).append(item)
    return groups


def _sure(item: Item) -> float:
    return item.score if item.score is not None and np.isfinite(item.score) else 0.0
