"""Boxes whose four sides are distributions over distances from a cell: NanoDet and PicoDet.

Outputs ``scores0``, ``scores1``, ... [1, n, C] and ``boxes0``, ``boxes1``, ... [1, n, 4 * bins], one pair for
each of ``strides``; or one output ``predictions`` [1, N, C + 4 * bins]. Options: ``strides``, ``bins`` (8),
``centre`` of a cell (``half``: (x + .5) * stride, PicoDet; ``pixel``: x * stride + (stride - 1) / 2, NanoDet;
``corner``: x * stride, NanoDet-Plus), ``activation`` of the scores.

Real files seen: NanoDet. PicoDet and NanoDet-Plus: no real file seen.

Source: X. Li et al., "Generalized Focal Loss" (2020), for the distributions.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.decoders.classify import softmax
from edgekit.pipeline.decoders.items import DetectOptions, Finish, bounded, logit, sigmoid, size_of

Floats = NDArray[np.float32]
Stride = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class BinsOptions(DetectOptions, frozen=True, kw_only=True):
    """``post.options`` of such a detector; see the module."""

    strides: tuple[Stride, ...]
    bins: Annotated[int, msgspec.Meta(ge=2, le=256)] = 8
    centre: Literal["half", "pixel", "corner"] = "half"
    activation: Literal["none", "sigmoid"] = "none"


def build(setup: Setup) -> Decoder:
    """Return a decoder: each cell's best class, thresholded, then suppression."""
    options = options_of(setup, BinsOptions)
    centres, strides, counts = _cells(setup, options)
    classes = _classes(setup, options, counts)
    finish = Finish(setup, options, classes)
    is_logit = options.activation == "sigmoid"
    bound = logit(finish.bound) if is_logit else finish.bound
    steps = np.arange(options.bins, dtype=np.float32)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        scores, sides = _tables(outcome, options, len(counts))
        rows, which, best = finish.best(scores, bound)
        if not len(rows):
            return ()
        sure = sigmoid(best) if is_logit else best
        shares = softmax(bounded(sides[rows]).reshape(-1, 4, options.bins))
        reach = shares @ steps * strides[rows, None]
        boxes = np.concatenate([centres[rows] - reach[:, :2], centres[rows] + reach[:, 2:]], axis=1)
        kept = finish.keep(boxes, sure, which)
        return finish.items(boxes[kept], sure[kept], which[kept], outcome.placement)

    return decode


def _cells(setup: Setup, options: BinsOptions) -> tuple[Floats, Floats, list[int]]:
    """Return the centre (N, 2) and stride (N,) of each cell in input pixels, and the cells of each grid."""
    width, height = (int(edge) for edge in size_of(setup))
    centres, strides = [], []
    for stride in options.strides:
        # the last cells of an input that is no multiple of the stride reach beyond its edge
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        shift = {"half": stride / 2, "pixel": (stride - 1) / 2, "corner": 0.0}[options.centre]
        centres.append(np.stack([x, y], axis=-1).reshape(-1, 2) * stride + shift)
        strides.append(np.full(x.size, stride))
    counts = [len(part) for part in centres]
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32), counts


def _classes(setup: Setup, options: BinsOptions, counts: list[int]) -> int:
    """Return the number of classes, checking every output's shape."""
    sides = 4 * options.bins
    if "predictions" in setup.shapes:
        width = shape_of(setup, "predictions", (1, sum(counts), -1))[2]
        if 0 <= width <= sides:
            raise BundleError(
                f"{setup.what}: output 'predictions': {sides} of {width} are sides, no class is left"
            )
        return width - sides if width >= 0 else -1
    classes = -1
    for number, count in enumerate(counts):
        classes = shape_of(setup, f"scores{number}", (1, count, classes))[2]
        shape_of(setup, f"boxes{number}", (1, count, sides))
    return classes


def _tables(outcome: Outcome, options: BinsOptions, grids: int) -> tuple[Floats, Floats]:
    tensors = outcome.tensors
    if "predictions" in tensors:
        table = tensors["predictions"][0]
        return table[:, : -4 * options.bins], table[:, -4 * options.bins :]
    scores = np.concatenate([tensors[f"scores{number}"][0] for number in range(grids)])
    return scores, np.concatenate([tensors[f"boxes{number}"][0] for number in range(grids)])
