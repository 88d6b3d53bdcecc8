"""Boxes round the peaks of a heat map: CenterNet and CenterFace.

Outputs ``heatmap`` [1, C, h, w], ``size`` [1, 2, h, w], maybe ``offset`` [1, 2, h, w] (of a centre from the
corner of its cell) and ``landmarks`` [1, 2K, h, w]. Options: ``stride`` (pixels of the input in a cell),
``size`` (``cells``, or ``log``: logarithms of cells), ``order`` of both pairs (``xy``; CenterFace: ``yx``),
``shift`` (added to a centre, in cells; CenterFace: 0.5), ``peaks`` (only cells that no neighbour exceeds
count, which takes the place of suppression), ``activation`` (``sigmoid`` where the map is logits).
Landmarks are shares of the box, from its corner.

Real files seen: CenterFace. CenterNet: no real file seen.

Source: X. Zhou et al., "Objects as Points" (2019); Y. Xu et al., "CenterFace" (2019) and its published
decoding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.items import DetectOptions, Extras, Finish, bounded, logit, sigmoid, size_of

Floats = NDArray[np.float32]


class CentreOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of such a detector; see the module."""

    stride: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    size: Literal["cells", "log"] = "cells"
    order: Literal["xy", "yx"] = "xy"
    shift: float = 0.0
    peaks: bool = True
    activation: Literal["none", "sigmoid"] = "none"
    landmarks: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


def build(setup: Setup) -> Decoder:
    """Return a decoder: the cells that pass, and the box that each names."""
    options = options_of(setup, CentreOptions)
    size_of(setup)
    classes, high, wide = shape_of(setup, "heatmap", (1, -1, -1, -1))[1:]
    shape_of(setup, "size", (1, 2, high, wide))
    has_offset = "offset" in setup.shapes
    if has_offset:
        shape_of(setup, "offset", (1, 2, high, wide))
    if options.landmarks:
        shape_of(setup, "landmarks", (1, 2 * options.landmarks, high, wide))
    finish = Finish(setup, options, classes)
    bound = logit(finish.bound) if options.activation == "sigmoid" else finish.bound

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        heat = outcome.tensors["heatmap"][0]
        passes = heat >= bound
        if options.peaks:
            passes &= heat >= _highest_near(heat)
        which, y, x = np.nonzero(passes)
        scores = heat[which, y, x]
        if options.activation == "sigmoid":
            scores = sigmoid(scores)
        centre = np.stack([x, y], axis=1) + np.float32(options.shift)
        if has_offset:
            centre = centre + _pairs(outcome.tensors["offset"], y, x, options.order)
        size = _pairs(outcome.tensors["size"], y, x, options.order)
        if options.size == "log":
            size = np.exp(np.clip(size, -20, 20))  # e**20 is far beyond any picture
        boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1) * np.float32(options.stride)
        kept = finish.keep(boxes, scores, which)
        extras = None
        if options.landmarks:
            extras = Extras(_landmarks(outcome.tensors["landmarks"], y[kept], x[kept], boxes[kept], options))
        return finish.items(boxes[kept], scores[kept], which[kept], outcome.placement, extras)

    return decode


def _highest_near(heat: Floats) -> Floats:
    """Return the highest value of each cell and its eight neighbours, shape (C, h, w)."""
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows = np.maximum(np.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return np.asarray(np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:]))


def _pairs(maps: Floats, y: NDArray[np.intp], x: NDArray[np.intp], order: str) -> Floats:
    """Return x and y of some cells, shape (n, 2)."""
    found = bounded(maps[0][:, y, x].T)
    return found if order == "xy" else found[:, ::-1]


def _landmarks(
    maps: Floats, y: NDArray[np.intp], x: NDArray[np.intp], boxes: Floats, options: CentreOptions
) -> Floats:
    shares = bounded(maps[0][:, y, x].T).reshape(len(y), options.landmarks, 2)
    shares = shares if options.order == "xy" else shares[:, :, ::-1]
    corner, size = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    return np.asarray(corner + shares * size, np.float32)
