"""Boxes from EfficientDet's raw outputs: a map of classes and one of boxes for each level of its pyramid.

Outputs ``scores0``, ``scores1``, ... [1, A * C, h, w] (logits) and ``boxes0``, ... [1, A * 4, h, w] (y, x,
height, width, relative to A anchors a cell). Options: ``anchor_scale`` (3 for the lite models, else 4),
``octaves`` (sizes of an anchor), ``aspects`` (width and height of each shape of anchor), ``multi_label``
(every class of an anchor that passes is an item, as its library does, not only the best).

Source: M. Tan et al., "EfficientDet" (2020); the anchors and answers of effdet 0.4.1.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.items import DetectOptions, Finish, bounded, logit, sigmoid, size_of
from edgekit.pipeline.decoders.ssd import decode_boxes

Floats = NDArray[np.float32]
Positive = Annotated[float, msgspec.Meta(gt=0)]
_NO_SCALE = (1.0, 1.0, 1.0, 1.0)


class EfficientDetOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of such a detector; see the module."""

    anchor_scale: Positive
    octaves: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3
    aspects: tuple[tuple[Positive, Positive], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    multi_label: bool = True


def build(setup: Setup) -> Decoder:
    """Return a decoder: every class of every anchor that passes, then suppression."""
    options = options_of(setup, EfficientDetOptions)
    each = options.octaves * len(options.aspects)
    anchors, levels, classes = _levels(setup, options, each)
    finish = Finish(setup, options, classes)
    bound = logit(finish.bound)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        tensors = outcome.tensors
        scores = np.concatenate([_rows(tensors[f"scores{n}"], classes) for n in range(levels)])
        if options.multi_label:
            rows, which = np.nonzero(scores >= bound)
            best = scores[rows, which]
        else:
            rows, which, best = finish.best(scores, bound)
        if not len(rows):
            return ()
        boxes = np.concatenate([_rows(tensors[f"boxes{n}"], 4) for n in range(levels)])
        placed = decode_boxes(bounded(boxes[rows]), anchors[rows], _NO_SCALE, "yxhw")
        sure = sigmoid(best)
        kept = finish.keep(placed, sure, which)
        return finish.items(placed[kept], sure[kept], which[kept], outcome.placement)

    return decode


def _levels(setup: Setup, options: EfficientDetOptions, each: int) -> tuple[Floats, int, int]:
    """Return the anchors (N, 4: centre x, y, width, height in pixels), the levels and the classes.

    Raises:
        BundleError: The maps do not fit each other.
    """
    width, height = (float(edge) for edge in size_of(setup))
    parts, classes, level = [], -1, 0
    while f"scores{level}" in setup.shapes:
        _, channels, rows, columns = shape_of(setup, f"scores{level}", (1, -1, -1, -1))
        shape_of(setup, f"boxes{level}", (1, 4 * each, rows, columns))
        if channels % each or classes not in (-1, channels // each):
            raise BundleError(f"{setup.what}: output 'scores{level}': {channels} is no {each} x classes")
        classes = channels // each
        parts.append(_anchors(options, (width / columns, height / rows), rows, columns))
        level += 1
    if not parts:
        raise BundleError(f"{setup.what}: the 'efficientdet' decoder needs outputs scores0, boxes0, ...")
    return np.concatenate(parts), level, classes


def _anchors(options: EfficientDetOptions, stride: tuple[float, float], rows: int, columns: int) -> Floats:
    sizes = [
        (wide * stride[0] * factor, high * stride[1] * factor)
        for octave in range(options.octaves)
        for wide, high in options.aspects
        for factor in [options.anchor_scale * 2 ** (octave / options.octaves)]
    ]
    grid = np.empty((rows, columns, len(sizes), 4), np.float32)
    grid[..., 0] = ((np.arange(columns) + 0.5) * stride[0])[None, :, None]
    grid[..., 1] = ((np.arange(rows) + 0.5) * stride[1])[:, None, None]
    grid[..., 2:] = sizes
    return grid.reshape(-1, 4)


def _rows(maps: Floats, width: int) -> Floats:
    """Return a map as one row of ``width`` for each anchor: cell by cell, a cell's anchors in turn."""
    return np.asarray(maps[0].transpose(1, 2, 0).reshape(-1, width))
