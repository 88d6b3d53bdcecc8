"""No decoding: the prediction is empty, and the result carries the tensors themselves."""

from __future__ import annotations

from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of


def build(setup: Setup) -> Decoder:
    """Return a decoder without items."""
    options_of(setup, Options)

    def decode(_: Outcome) -> tuple[Item, ...]:
        return ()

    return decode
