"""No decoding: the prediction is empty, and the result carries the tensors themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of

if TYPE_CHECKING:
    from edgekit.core.spec import Item


def build(setup: Setup) -> Decoder:
    """Return a decoder without items."""
    options_of(setup, Options)

    def decode(_: Outcome) -> tuple[Item, ...]:
        return ()

    return decode
