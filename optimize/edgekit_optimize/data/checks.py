"""Checks of the data: not too large, enough samples, and not constant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit_optimize.data.listing import is_image

MIN_CALIBRATION, MIN_EVALUATION = 8, 16


def check_memory(inputs: Sequence[TensorSpec], calibration: int, evaluation: int, max_bytes: int) -> None:
    """Check that the samples fit into ``max_bytes``: all as stored, and calibration again as float32.

    Raises:
        ConfigError: They do not fit, or a sample count is out of range.
    """
    if calibration < 0 or evaluation < 1:
        raise ConfigError(
            f"want at least 1 evaluation and 0 calibration samples, got {evaluation} and {calibration}"
        )
    values = sum(math.prod(max(n, 1) for n in spec.shape[1:]) for spec in inputs)
    sample_bytes = sum(math.prod(max(n, 1) for n in s.shape[1:]) * (1 if is_image(s) else 4) for s in inputs)
    needed = sample_bytes * (calibration + evaluation) + 4 * values * calibration
    if needed > max_bytes:
        raise ConfigError(
            f"{calibration} + {evaluation} samples need {needed / 1e6:.0f} MB,"
            f" the limit is {max_bytes / 1e6:.0f} MB",
            hint="ask for fewer with --samples and --calibration-samples",
        )


def enough(source: str, what: str, count: int, least: int, available: int, dropped: int = 0) -> None:
    """Check that ``count`` samples are enough to calibrate or evaluate (``what``).

    Raises:
        ConfigError: There are fewer than ``least``.
    """
    if count >= least:
        return
    also = f", {dropped} of them are also in the evaluation set" if dropped else ""
    raise ConfigError(
        f"{source}: {count} samples are left to {what}, want {least}; it has {available} in total{also}",
        hint=f"give {MIN_CALIBRATION + MIN_EVALUATION} different samples or more, 500 for a reliable result",
    )


_MOST_COLOURS = 4


def check_varied(inputs: Mapping[str, NDArray[Any]], source: str) -> None:
    """Check that neither the samples nor one of their channels are constant.

    Raises:
        TensorError: All samples are equal, or a channel has the same value everywhere.
    """
    for name, values in _varying(inputs).items():
        if len(values) < 2:
            continue
        low, high = _extremes(values)
        if (values == values[0]).all():
            raise TensorError(
                f"{source}: all {len(values)} samples of input {name!r} are the same",
                hint="give real data: constant samples allow no conclusion about ranges or accuracy",
            )
        if flat := [channel for channel in range(len(low)) if low[channel] == high[channel]]:
            raise TensorError(
                f"{source}: channel {flat[0]} of input {name!r} is {low[flat[0]]:g} in every sample",
                hint="check how the data were recorded, and the order of their channels",
            )


def _varying(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Return the inputs to check: none if there are several, since a state or option may be constant."""
    if len(inputs) < 2 or all((values == values[0]).all() for values in inputs.values() if len(values)):
        return inputs
    return {}


def _extremes(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the smallest and largest value of each channel, or of all values without channels."""
    channel_axis = _channel_axis(values.shape)
    axes = tuple(axis for axis in range(values.ndim) if axis != channel_axis)
    return np.atleast_1d(values.min(axis=axes)), np.atleast_1d(values.max(axis=axes))


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the channel axis of samples (n, ...), or None if unknown.

    It is last in sensor windows, and last or first in images.
    """
    if len(shape) == 3:
        return 2
    if len(shape) == 4:
        return next((axis for axis in (3, 1) if shape[axis] <= _MOST_COLOURS), None)
    return None
