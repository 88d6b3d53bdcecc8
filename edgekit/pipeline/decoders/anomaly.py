"""The error of an autoencoder's reconstruction of a sensor window.

Output ``reconstruction``, as many values as the window has. Options: ``threshold`` (an error of this
size or more is an anomaly), ``smoothing`` (mean over this many windows), ``error`` ("mse", "mae" or
"max", over the window's normalised values).
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, options_of


class AnomalyOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of an anomaly detector."""

    threshold: Annotated[float, msgspec.Meta(gt=0)]
    smoothing: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    error: Literal["mse", "mae", "max"] = "mse"


def window_error(fed: NDArray[np.float32], rebuilt: NDArray[np.float32], kind: str) -> float:
    """Return one number for the difference of two arrays of one size.

    >>> window_error(np.float32([0, 0]), np.float32([1, 3]), "mse")
    5.0
    """
    difference = np.abs(fed.reshape(-1) - rebuilt.reshape(-1))
    if kind == "mse":
        return float(np.mean(difference**2))
    return float(difference.max() if kind == "max" else difference.mean())


def build(setup: Setup) -> Decoder:
    """Return a decoder: one item, ``anomaly`` or ``normal``, its ``value`` the smoothed error.

    The score is ``1 - 2**(-value / threshold)`` for an anomaly (0.5 at the threshold), and 1 minus that
    for a normal window.
    """
    options = options_of(setup, AnomalyOptions)
    if "reconstruction" not in setup.shapes:
        raise BundleError(f"{setup.what}: the 'anomaly' decoder needs an output 'reconstruction'")
    recent: deque[float] = deque(maxlen=options.smoothing)
    setup.on_reset.append(recent.clear)

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        rebuilt = outcome.tensors["reconstruction"]
        if outcome.fed is None or outcome.fed.size != rebuilt.size:
            raise TensorError(f"output 'reconstruction': want the window's size, got {list(rebuilt.shape)}")
        recent.append(window_error(outcome.fed, rebuilt, options.error))
        value = sum(recent) / len(recent)
        surprise = 1 - 2 ** (-value / options.threshold)
        if value >= options.threshold:
            return (Item(label="anomaly", score=surprise, index=1, value=value),)
        return (Item(label="normal", score=1 - surprise, index=0, value=value),)

    return decode
