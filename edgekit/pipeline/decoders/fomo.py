"""Centres of things from FOMO's grid of cells.

Output ``cells`` [1, h, w, 1 + C], probabilities, the background in the first column. Cells of one class
that touch are one item, its box theirs, its score the best of theirs. ``activation`` softmax where the
cells are logits.

Source: Edge Impulse, "FOMO: object detection for constrained devices" (2022).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.classify import softmax
from edgekit.pipeline.decoders.items import DetectOptions, Finish
from edgekit.pipeline.decoders.nms import MAX_CANDIDATES, best_first


class FomoOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of a FOMO model."""

    nms: Literal["none"] = "none"
    background: Literal["first", "last"] = "first"
    activation: Literal["none", "softmax"] = "none"


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item for each group of touching cells of one class."""
    options = options_of(setup, FomoOptions)
    classes = shape_of(setup, "cells", (1, -1, -1, -1))[3]
    finish = Finish(setup, options, classes, options.background)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        cells = outcome.tensors["cells"][0]
        if options.activation == "softmax":
            cells = softmax(cells)
        high, wide = cells.shape[:2]
        found, which, scores = finish.best(cells.reshape(-1, cells.shape[2]), finish.bound)
        order = best_first(scores, MAX_CANDIDATES)
        found, which, scores = found[order], which[order], scores[order]
        leaders, corners = _groups(found, which, wide)
        size = np.tile(finish.size / np.array([wide, high], np.float32), 2)
        boxes = np.asarray(corners * size, np.float32)
        kept = finish.keep(boxes, scores[leaders], which[leaders])
        return finish.items(boxes[kept], scores[leaders][kept], which[leaders][kept], outcome.placement)

    return decode


def _groups(
    cells: NDArray[np.intp], which: NDArray[np.intp], wide: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return each group's first cell (an index of ``cells``), and its box in cells, shape (groups, 4)."""
    places = {
        (int(c), *divmod(int(cell), wide)): i for i, (cell, c) in enumerate(zip(cells, which, strict=True))
    }
    leaders, boxes = [], []
    while places:
        place, leader = next(iter(places.items()))
        del places[place]
        waiting, group = [place], [place]
        while waiting:
            label, y, x = waiting.pop()
            near = [(label, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            new = [other for other in near if places.pop(other, None) is not None]
            waiting += new
            group += new
        ys, xs = [y for _, y, _ in group], [x for _, _, x in group]
        leaders.append(leader)
        boxes.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    return np.array(leaders, np.intp), np.array(boxes, np.intp).reshape(-1, 4)
