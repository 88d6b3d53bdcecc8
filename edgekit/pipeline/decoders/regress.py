"""Numbers: a regression's, or a forecast's steps.

Output ``values``: [1, N], a number for each of N targets; or [1, H, N], H steps of them. The labels are
the targets' names. Options: ``scale`` and ``offset`` (the number is ``output * scale + offset``; one, or
one for each target).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Item
from edgekit.pipeline.check import Options
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, check_labels, label_of, options_of


class RegressOptions(Options, frozen=True, kw_only=True):
    """``post.options`` of a regression."""

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)


def build(setup: Setup) -> Decoder:
    """Return a decoder: an item with a ``value`` for each target, step by step.

    ``index`` is the step, 0 the first; a target without a name is called ``value``, or by its number.
    """
    options = options_of(setup, RegressOptions)
    shape = setup.shapes.get("values")
    if shape is None or len(shape) not in (2, 3) or shape[0] != 1:
        raise BundleError(
            f"{setup.what}: the 'regress' decoder needs an output 'values', [1, N] or [1, H, N], "
            f"got {'none' if shape is None else list(shape)}"
        )
    targets = shape[-1]
    labels = check_labels(setup, targets, has_background=False) or (("value",) if targets == 1 else ())
    scale, offset = (_per_target(setup, key, getattr(options, key), targets) for key in ("scale", "offset"))

    def decode(outcome: Outcome) -> tuple[Item, ...]:
        raw = outcome.tensors["values"]
        steps = raw.reshape(-1, raw.shape[-1]) * scale + offset
        return tuple(
            Item(label=label_of(labels, target), index=step, value=value)
            for step, row in enumerate(steps.tolist())
            for target, value in enumerate(row)
        )

    return decode


def _per_target(setup: Setup, key: str, values: tuple[float, ...], targets: int) -> NDArray[np.float64]:
    if len(values) not in (1, targets):
        raise BundleError(f"{setup.what}: post.options.{key}: want 1 or {targets} values, got {len(values)}")
    return np.array(values)
