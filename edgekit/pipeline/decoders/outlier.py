"""Whether a row or a window is an outlier, from one number.

Output ``score``, one value. Options: ``threshold``, ``is_low`` (a value below it is the anomaly, as
scikit-learn's ``decision_function`` has it, with threshold 0), ``smoothing`` (mean over so many frames).
"""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of


class OutlierOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of an outlier detector."""

    threshold: float
    is_low: bool = False
    smoothing: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item, ``anomaly`` or ``normal``, its ``value`` the smoothed number.

    There is no score: the number has no scale of its own.
    """
    options = options_of(setup, OutlierOptions)
    if "score" not in setup.shapes:
        raise BundleError(f"{setup.what}: the 'outlier' decoder needs an output 'score'")
    recent: deque[float] = deque(maxlen=options.smoothing)
    setup.on_reset.append(recent.clear)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        score = outcome.tensors["score"]
        if score.size != 1:
            raise TensorError(f"output 'score': want one value, got {list(score.shape)}")
        recent.append(float(score.reshape(-1)[0]))
        value = sum(recent) / len(recent)
        is_outlier = value < options.threshold if options.is_low else value >= options.threshold
        label = "anomaly" if is_outlier else "normal"
        return (Item(label=label, index=int(is_outlier), value=value),)

    return decode
