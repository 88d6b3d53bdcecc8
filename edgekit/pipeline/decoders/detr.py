"""Boxes from the queries of a DETR.

Outputs ``logits`` [1, Q, C], ``boxes`` [1, Q, 4] (centre x, centre y, width, height, as shares of the
input), and maybe ``masks`` [1, Q, h, w] (logits). Options: ``activation`` (``sigmoid``: every class of every
query counts alone, as many are taken as there are queries, at most 300; ``softmax``: a query's best
class), ``background`` (``last`` for DETR and YOLOS, whose last column means "no object"). No suppression is
needed.

Families: RT-DETR and v2, D-FINE, DEIM, RF-DETR (also with masks): sigmoid; DETR, YOLOS: softmax.

Source: ``post_process_object_detection`` of the libraries that train them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.classify import softmax
from edgekit.pipeline.decoders.extras import masks_of
from edgekit.pipeline.decoders.items import (
    Background,
    DetectOptions,
    Extras,
    Finish,
    bounded,
    logit,
    sigmoid,
    to_corners,
)
from edgekit.pipeline.decoders.nms import MAX_KEPT, best_first


class DetrOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of a DETR; see the module."""

    nms: Literal["class", "agnostic", "none"] = "none"
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    background: Background = ""


def build(setup: Setup) -> Decoder:
    """Return a decoder: the best pairs of query and class, or each query's best class."""
    options = options_of(setup, DetrOptions)
    count, classes = shape_of(setup, "logits", (1, -1, -1))[1:]
    shape_of(setup, "boxes", (1, count, 4))
    has_masks = "masks" in setup.shapes
    if has_masks:
        shape_of(setup, "masks", (1, count, -1, -1))
    finish = Finish(setup, options, classes, options.background)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        logits = outcome.tensors["logits"][0]
        if options.activation == "softmax":
            queries, which, scores = finish.best(softmax(logits), finish.bound)
        else:
            queries, which, scores = _pairs(logits, finish)
        boxes = bounded(outcome.tensors["boxes"][0][queries]) * np.tile(finish.size, 2)
        boxes = to_corners(boxes, "cxcywh")
        kept = finish.keep(boxes, scores, which)
        extras = None
        if has_masks:
            maps = outcome.tensors["masks"][0][queries[kept]]
            everywhere = np.tile(np.concatenate([np.zeros(2, np.float32), finish.size]), (len(kept), 1))
            extras = Extras(masks=masks_of(maps, everywhere, finish.size, outcome.placement)[0])
        return finish.items(boxes[kept], scores[kept], which[kept], outcome.placement, extras)

    return decode


def _pairs(
    logits: NDArray[np.float32], finish: Finish
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return (query, class, score) of the best pairs; only these are put through the sigmoid."""
    logits = logits[:, finish.columns]
    queries, which = np.nonzero(logits >= logit(finish.bound))
    found = logits[queries, which]
    best = best_first(found, min(MAX_KEPT, len(logits)))
    return queries[best], which[best] + (finish.columns.start or 0), sigmoid(found[best])
