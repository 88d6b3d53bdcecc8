"""Boxes from a single-shot detector's raw outputs.

Outputs ``boxes`` [1, A, 4], offsets to A anchors, and ``scores`` [1, A, C]. Options: ``anchors``,
``box_scale`` (the factors of the offsets in training, in ``box_order``), ``box_order``
("yxhw" or "xywh"), ``activation``, ``background`` (class 0 is never reported).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, check_labels, label_of, options_of, shape_of
from edgekit.pipeline.decoders.anchors import AnchorOptions, anchors_of
from edgekit.pipeline.decoders.classify import softmax
from edgekit.pipeline.decoders.items import logit, sigmoid
from edgekit.pipeline.decoders.nms import best_first, suppress


class SsdOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a detector."""

    anchors: AnchorOptions
    box_scale: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_order: Literal["yxhw", "xywh"] = "yxhw"
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    background: bool = True


def decode_boxes(
    raw: NDArray[np.float32], anchors: NDArray[np.float32], box_scale: tuple[float, ...], box_order: str
) -> NDArray[np.float32]:
    """Return boxes from offsets to anchors.

    Args:
        raw: Shape (n, 4), the model's output; sizes are logarithms of factors of the anchor's.
        anchors: Shape (n, 4): centre x, centre y, width, height.
        box_scale: Divisors of the four columns of ``raw``.
        box_order: The order of the columns.

    Returns:
        Shape (n, 4), float32: left, top, right, bottom, in the anchors' unit.
    """
    offsets = raw / np.array(box_scale, np.float32)
    if box_order == "yxhw":
        offsets = offsets[:, [1, 0, 3, 2]]
    centre = offsets[:, :2] * anchors[:, 2:] + anchors[:, :2]
    # e**20 is far beyond any image: the bound keeps hostile offsets from overflowing
    half = np.exp(np.clip(offsets[:, 2:], -20, 20)) * anchors[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def build(setup: Setup) -> Decoder:
    """Return a decoder: each anchor's best class, thresholded, then class-aware suppression."""
    options = options_of(setup, SsdOptions)
    count = shape_of(setup, "boxes", (1, -1, 4))[1]
    classes = shape_of(setup, "scores", (1, count, -1))[2]
    anchors = anchors_of(setup, options.anchors, count)
    labels = check_labels(setup, classes, has_background=options.background)
    post, first, size = setup.post, int(options.background), np.array(setup.input_size * 2, np.float32)  # type: ignore[operator]
    is_sigmoid = options.activation == "sigmoid"
    bound = logit(post.score_threshold) if is_sigmoid else post.score_threshold

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores = outcome.tensors["scores"][0]
        if options.activation == "softmax":
            scores = softmax(scores)
        # a sigmoid keeps the order, so it is computed only for the candidates
        indices, which, best = _candidates(scores, first, bound)
        if not len(indices):
            return ()
        sure = sigmoid(best) if is_sigmoid else best
        raw = outcome.tensors["boxes"][0, indices]
        boxes = decode_boxes(raw, anchors[indices], options.box_scale, options.box_order)
        kept = suppress(boxes, sure, which, post.iou_threshold)
        if outcome.placement is not None:
            boxes = outcome.placement.to_source(boxes * size)
        return tuple(_item(labels, int(which[i]), float(sure[i]), boxes[i]) for i in kept)

    return decode


def _candidates(
    scores: NDArray[np.float32], first: int, bound: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return (anchor, class, score) of the strongest anchors whose best class, from ``first`` on, passes."""
    width = scores.shape[1]
    hits = np.flatnonzero(scores >= bound)
    indices = np.unique(hits[hits % width >= first] // width)
    best = scores[indices, first:].max(axis=1, initial=-np.inf)
    order = best_first(best)
    indices, best = indices[order], best[order]
    if not len(indices):  # argmax refuses a model of no classes, max does not
        return indices, indices, best
    return indices, scores[indices, first:].argmax(axis=1) + first, best


def _item(labels: tuple[str, ...], index: int, score: float, box: NDArray[np.float32]) -> Item:
    left, top, right, bottom = box.tolist()
    return Item(label=label_of(labels, index), score=score, index=index, box=(left, top, right, bottom))
