"""A vector for a picture or a window, and with a gallery the name of what it is nearest to.

Output ``embedding`` [1, N]. Options: ``margin`` (how much nearer the best name must be than the next one).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of, shape_of
from edgekit.pipeline.gallery import UNKNOWN, unit_vector


class EmbedOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of an embedding."""

    margin: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.05


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item with the ``vector``, scaled to length 1.

    With a gallery its ``label`` is the nearest name, if the cosine is at least ``score_threshold`` and
    exceeds the next name's by ``margin``; else ``unknown``. ``score`` is the cosine, at least 0.
    """
    options, threshold, gallery = options_of(setup, EmbedOptions), setup.post.score_threshold, setup.gallery
    shape_of(setup, "embedding", (1, -1))

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        unit = unit_vector(outcome.tensors["embedding"])
        vector = tuple(unit.tolist())
        if gallery is None:
            return (Item(vector=vector),)
        name, cosine, lead = gallery.nearest(unit)
        is_known = cosine >= threshold and lead >= options.margin
        label = name if is_known else UNKNOWN
        return (Item(label=label, score=max(0.0, cosine), index=int(is_known), vector=vector),)

    return decode
