"""Defects in a picture, from a map of how unusual each cell is.

Output ``heatmap``, one value for each cell ([1, H, W], [1, H, W, 1] or [1, 1, H, W]), and optionally
``score``, one value for the picture; without it the map's highest is the picture's. Options:
``threshold`` and ``cell_threshold`` (a picture and a cell of at least this much are a defect), ``lowest``
and ``highest`` (the range of raw values in training; both 0: they are normalised already).

Source: Anomalib, ``min_max`` normalisation: ``(x - threshold) / (highest - lowest) + 0.5``, cut to 0 to 1.
No real file seen: made from Anomalib's documentation.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of
from edgekit.pipeline.decoders.visible import flat_map, input_size_of, map_shape, mask_of, visible


class HeatmapOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a map of defects."""

    threshold: float = 0.5
    cell_threshold: float = 0.5
    lowest: float = 0.0
    highest: float = 0.0

    def problems(self) -> Iterable[str]:
        """Report a range that is upside down."""
        if self.highest < self.lowest:
            yield f"highest: want at least lowest ({self.lowest}), got {self.highest}"


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item, ``anomaly`` with its mask and box, or ``normal``.

    ``value`` is the picture's own number, ``score`` the normalised one (of ``normal``: 1 minus it). The
    whole map is the prediction's tensor ``heatmap``.
    """
    options, size = options_of(setup, HeatmapOptions), input_size_of(setup)
    map_shape(setup, "heatmap")

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        values = flat_map(outcome.tensors["heatmap"])
        seen = visible(outcome.placement, size, values.shape)
        values = np.array(values[seen.rows, seen.columns], np.float32)
        outcome.maps["heatmap"] = values
        value = _value(outcome, values)
        score = normalized(value, options)
        if value < options.threshold:
            return (Item(label="normal", score=1 - score, index=0, value=value),)
        is_hot = values >= options.cell_threshold
        if not is_hot.any():
            return (Item(label="anomaly", score=score, index=1, value=value),)
        mask = mask_of(is_hot, seen.area)
        return (Item(label="anomaly", score=score, index=1, value=value, mask=mask, box=mask.extent()),)

    return decode


def normalized(value: float, options: HeatmapOptions) -> float:
    """Return a picture's number as 0 to 1, 0.5 at the threshold."""
    width = options.highest - options.lowest
    share = (value - options.threshold) / width + 0.5 if width else value
    return min(1.0, max(0.0, share))


def _value(outcome: Outcome, values: NDArray[np.float32]) -> float:
    score = outcome.tensors.get("score")
    if score is None:
        return float(values.max())
    if score.size != 1:
        raise TensorError(f"output 'score': want one value for the picture, got {list(score.shape)}")
    return float(score.reshape(-1)[0])
