"""Whether a sound window holds speech.

Output ``probability``, one value, 0 to 1. No options.
"""

from __future__ import annotations

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item, ``speech`` at ``score_threshold`` or more, else ``silence``."""
    options_of(setup, Options)
    if "probability" not in setup.shapes:
        raise BundleError(f"{setup.what}: the 'vad' decoder needs an output 'probability'")
    threshold = setup.post.score_threshold

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        values = outcome.tensors["probability"].reshape(-1)
        if values.size != 1:
            raise TensorError(f"output 'probability': want one value, got {values.size}")
        speech = float(values[0])
        if speech >= threshold:
            return (Item(label="speech", score=speech, index=1, value=speech),)
        return (Item(label="silence", score=1 - speech, index=0, value=speech),)

    return decode
