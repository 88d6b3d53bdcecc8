"""The foreground of a picture, from a map of how much each cell belongs to it.

Output ``matte``, one value for each cell ([1, H, W], [1, H, W, 1] or [1, 1, H, W]). Options: ``activation``
("sigmoid" of logits; "range" scales each picture's own lowest to highest value to 0 to 1, as the U2-Net
family does), ``min_share`` (a smaller foreground is none).

Source: "range": X. Qin et al., U2-Net, ``u2net_test.py``, ``normPRED``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, label_of, options_of
from edgekit.pipeline.decoders.items import sigmoid
from edgekit.pipeline.decoders.visible import flat_map, input_size_of, map_shape, mask_of, scaled, visible


class MatteOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a matte."""

    activation: Literal["none", "sigmoid", "range"] = "none"
    min_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.001


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item where the matte is at least ``score_threshold``, or none.

    Its label is the model's first, else ``foreground``; ``score`` the mean of the matte inside,
    ``value`` the foreground's share of the picture, ``mask`` and ``box`` where it is.
    """
    options, size = options_of(setup, MatteOptions), input_size_of(setup)
    map_shape(setup, "matte")
    label, threshold = label_of(setup.labels or ("foreground",), 0), setup.post.score_threshold

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        values = flat_map(outcome.tensors["matte"])
        seen = visible(outcome.placement, size, values.shape)
        if options.activation == "sigmoid":
            values = sigmoid(values)
        elif options.activation == "range":
            low, high = float(values.min()), float(values.max())
            values = (values - np.float32(low)) / np.float32(max(high - low, 1e-6))
        values = scaled(values[seen.rows, seen.columns], seen.size)
        is_inside = values >= threshold
        share = float(is_inside.mean())
        if not share or share < options.min_share:
            return ()
        mask, score = mask_of(is_inside, seen.area), float(values[is_inside].mean())
        return (Item(label=label, score=score, index=0, value=share, mask=mask, box=mask.extent()),)

    return decode
