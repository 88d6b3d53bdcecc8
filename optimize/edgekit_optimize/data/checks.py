"""What data must be before they are trusted: not too large, enough, and different from each other."""

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
    """Refuse what would not fit: every sample once as it is, calibration once more as float32.

    Raises:
        ConfigError: It would not, or the numbers make no sense.
    """
    if calibration < 0 or evaluation < 1:
        raise ConfigError(f"want 1 or more samples to evaluate, got {evaluation}; {calibration} to calibrate")
    values = sum(math.prod(max(n, 1) for n in spec.shape[1:]) for spec in inputs)
    held = sum(math.prod(max(n, 1) for n in s.shape[1:]) * (1 if is_image(s) else 4) for s in inputs)
    wanted = held * (calibration + evaluation) + 4 * values * calibration
    if wanted > max_bytes:
        raise ConfigError(
            f"{calibration} + {evaluation} samples take {wanted / 1e6:.0f} MB,"
            f" at most {max_bytes / 1e6:.0f} MB are held",
            hint="ask for fewer with --samples and --calibration-samples",
        )


def enough(source: str, what: str, found: int, wanted: int, available: int, dropped: int = 0) -> None:
    """Refuse fewer samples than a calibration or an evaluation needs.

    Raises:
        ConfigError: There are fewer; it has the number wanted.
    """
    if found >= wanted:
        return
    also = f", {dropped} of them stand in the evaluation set too" if dropped else ""
    raise ConfigError(
        f"{source}: {found} samples are left to {what}, want {wanted}; it has {available} in all{also}",
        hint=f"give {MIN_CALIBRATION + MIN_EVALUATION} different samples or more, 500 for a sure answer",
    )


_MOST_COLOURS = 4


def check_varied(inputs: Mapping[str, NDArray[Any]], source: str) -> None:
    """Refuse samples that are all alike, or a channel of them that is: they say nothing of ranges.

    Raises:
        TensorError: They are.
    """
    for name, values in _varying(inputs).items():
        if len(values) < 2:
            continue
        low, high = _extremes(values)
        if (values == values[0]).all():
            raise TensorError(
                f"{source}: all {len(values)} samples of input {name!r} are the same",
                hint="give real, different data: constant data say nothing of a model's ranges or accuracy",
            )
        if flat := [channel for channel in range(len(low)) if low[channel] == high[channel]]:
            raise TensorError(
                f"{source}: channel {flat[0]} of input {name!r} is {low[flat[0]]:g} in every sample",
                hint="check how the data were recorded and in which order their channels stand",
            )


def _varying(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Return the inputs that must vary: a state or an option beside the data need not."""
    if len(inputs) < 2 or all((values == values[0]).all() for values in inputs.values() if len(values)):
        return inputs
    return {}


def _extremes(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the least and largest value of each channel; of all values where there are no channels."""
    kept = _channel_axis(values.shape)
    axes = tuple(axis for axis in range(values.ndim) if axis != kept)
    return np.atleast_1d(values.min(axis=axes)), np.atleast_1d(values.max(axis=axes))


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of samples (n, ...) has the channels; None where none is known to.

    Sensor windows have them last; images last or, as some frameworks want them, first.
    """
    if len(shape) == 3:
        return 2
    if len(shape) == 4:
        return next((axis for axis in (3, 1) if shape[axis] <= _MOST_COLOURS), None)
    return None
