"""How far each part of a picture is away.

Output ``depth``, one value for each cell ([1, H, W], [1, H, W, 1] or [1, 1, H, W]). Options: ``scale``
(multiplies the output, such as to metres), ``unit`` (of the result, for whoever reads it), ``is_inverse``
(larger is nearer, as MiDaS and Depth Anything give it: a relative depth without unit).
"""

from __future__ import annotations

import numpy as np

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of
from edgekit.pipeline.decoders.visible import flat_map, input_size_of, map_shape, visible

SHARES = {"nearest": 2, "middle": 50, "farthest": 98}
"""The percentiles that are reported; the very extremes are most often noise at edges."""


class DepthOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a depth map."""

    scale: float = 1.0
    unit: str = ""
    is_inverse: bool = False


def build(setup: Setup) -> Decoder:
    """Return a decoder: items ``nearest``, ``middle`` and ``farthest``, each with its ``value``.

    They are the values at 2, 50 and 98 % of the picture's cells. The whole map is the prediction's tensor
    ``depth``: rows and columns over the picture, without the border of a letterbox.
    """
    options, size = options_of(setup, DepthOptions), input_size_of(setup)
    map_shape(setup, "depth")

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        values = flat_map(outcome.tensors["depth"])
        seen = visible(outcome.placement, size, values.shape)
        depth = np.array(values[seen.rows, seen.columns] * np.float32(options.scale), np.float32)
        outcome.maps["depth"] = depth
        shares = [100 - share if options.is_inverse else share for share in SHARES.values()]
        found = np.percentile(depth, shares).tolist()
        return tuple(
            Item(label=label, index=index, value=value)
            for index, (label, value) in enumerate(zip(SHARES, found, strict=True))
        )

    return decode
