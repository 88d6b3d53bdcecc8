"""Splits recordings for a model with state, keeping each recording in order.

The outputs of such a model depend on all earlier samples, so samples cannot be drawn individually. Whole
recordings are assigned to one set if there are enough of them; otherwise one is cut in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError

POOL = 4
"""Calibrate on every ``POOL``-th sample, but run the model on all of them, as its state depends on them."""


@dataclass(frozen=True)
class Division:
    """The sample indices of both sets, in order of time within each recording."""

    pool: tuple[int, ...]
    judged: tuple[int, ...]


def recordings_of(marks: Sequence[int | str] | None, count: int, source: str) -> list[range]:
    """Return the index range of each recording; a single one if ``marks`` is None.

    Args:
        marks: The recording of each sample, or None.
        count: The number of samples.
        source: The data source, for errors.

    Raises:
        ConfigError: The samples of a recording are not contiguous.
    """
    if marks is None:
        return [range(count)]
    starts = [0, *(index for index in range(1, count) if marks[index] != marks[index - 1])]
    first: dict[int | str, int] = {}
    for start in starts:
        if marks[start] in first:
            raise ConfigError(
                f"{source}: recording {marks[start]!r} has samples from index {first[marks[start]]} and again"
                f" from index {start}, with others between",
                hint="put the samples of each recording one after another, in order of time",
            )
        first[marks[start]] = start
    return [range(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def divide(recordings: Sequence[range], pool: int, judged: int) -> Division:
    """Return the first ``pool`` samples for calibration and the next ``judged`` for evaluation.

    The cut is between two recordings if that leaves enough for both sets.

    >>> divide([range(0, 6), range(6, 12), range(12, 18)], 4, 10)
    Division(pool=(0, 1, 2, 3), judged=(6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
    >>> divide([range(0, 6)], 2, 4)
    Division(pool=(0, 1), judged=(2, 3, 4, 5))

    Args:
        recordings: The index range of each recording.
        pool: Maximum number of calibration samples.
        judged: Maximum number of evaluation samples.
    """
    flat = [index for recording in recordings for index in recording]
    ends = [0, *np.cumsum([len(recording) for recording in recordings]).tolist()]
    above = next((end for end in ends if end >= pool), len(flat))
    below = max(end for end in ends if end <= pool)
    cut = pool
    if len(flat) - above >= judged:
        cut = above
    elif below * 2 >= pool:
        cut = below
    return Division(tuple(flat[: min(pool, cut)]), tuple(flat[cut : cut + judged]))


def starts_of(indices: Sequence[int], recordings: Sequence[range]) -> tuple[int, ...]:
    """Return the positions in ``indices`` where the state is reset: recording starts, and after gaps."""
    begins = {recording.start for recording in recordings}
    return tuple(
        n for n, index in enumerate(indices) if n == 0 or index in begins or indices[n - 1] != index - 1
    )


def thinned(count: int, limit: int, dropped: frozenset[int]) -> tuple[int, ...]:
    """Return at most ``limit`` of ``count`` indices, evenly spaced over those not dropped."""
    available = [index for index in range(count) if index not in dropped]
    if len(available) <= limit:
        return tuple(available)
    return (
        tuple(available[n] for n in np.linspace(0, len(available) - 1, limit).round().astype(int))
        if limit
        else ()
    )


def with_context(
    windows: NDArray[np.float32], starts: Sequence[int], window: int, context: int
) -> NDArray[np.float32]:
    """Return each window with the last samples of the previous one prepended; zeros at a start.

    Args:
        windows: Shape (n, ...) of ``window`` samples x channels each, in order.
        starts: Indices of the windows where a recording begins.
        window: Samples per window.
        context: Number of samples to prepend.

    Returns:
        Shape (n, context + window, channels).
    """
    rows = windows.reshape(len(windows), window, -1)
    before = np.zeros((context, rows.shape[2]), np.float32)
    begins = frozenset(starts)
    extended = np.empty((len(rows), context + window, rows.shape[2]), np.float32)
    for n, row in enumerate(rows):
        if n in begins:
            before = np.zeros_like(before)
        extended[n] = np.concatenate([before, row])
        before = extended[n][-context:] if context else before
    return extended
