"""Data of a model with state: recordings in their order, divided so that each side keeps its order.

What such a model answers depends on all samples before, so no sample can be drawn alone. Whole
recordings go to one side where there are enough of them; else one of them is cut in two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError

POOL = 4
"""A calibration set is taken evenly from so many times as many samples, over which the state runs."""
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Division:
    """The places of both sides, each in order of time within its recordings."""

    pool: tuple[int, ...]
    judged: tuple[int, ...]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names as a person numbers them: ``frame9`` before ``frame10``."""
    parts = _NUMBER.split(name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def recordings_of(marks: Sequence[int | str] | None, count: int, source: str) -> list[range]:
    """Return each recording's places; all samples are one where nothing names their recordings.

    Args:
        marks: What names each sample's recording, or None.
        count: How many samples there are.
        source: Where they come from, for errors.

    Raises:
        ConfigError: A recording comes back after another: its samples are not in order.
    """
    if marks is None:
        return [range(count)]
    starts = [0, *(place for place in range(1, count) if marks[place] != marks[place - 1])]
    seen: dict[int | str, int] = {}
    for start in starts:
        if marks[start] in seen:
            raise ConfigError(
                f"{source}: recording {marks[start]!r} has samples from place {seen[marks[start]]} and again"
                f" from place {start}, others between",
                hint="let the samples of a recording follow one another, in the order of time",
            )
        seen[marks[start]] = start
    return [range(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def divide(recordings: Sequence[range], pool: int, judged: int) -> Division:
    """Divide recordings, in the order given: the first samples calibrate, the next evaluate.

    The cut lies between two recordings where that leaves enough for both sides.

    >>> divide([range(0, 6), range(6, 12), range(12, 18)], 4, 10)
    Division(pool=(0, 1, 2, 3), judged=(6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
    >>> divide([range(0, 6)], 2, 4)
    Division(pool=(0, 1), judged=(2, 3, 4, 5))

    Args:
        recordings: Each one's places.
        pool: How many samples calibrate, at most.
        judged: How many evaluate, at most.
    """
    flat = [place for recording in recordings for place in recording]
    ends = [0, *np.cumsum([len(recording) for recording in recordings]).tolist()]
    above = next((end for end in ends if end >= pool), len(flat))
    below = max(end for end in ends if end <= pool)
    cut = pool
    if len(flat) - above >= judged:
        cut = above
    elif below * 2 >= pool:
        cut = below
    return Division(tuple(flat[: min(pool, cut)]), tuple(flat[cut : cut + judged]))


def starts_of(places: Sequence[int], recordings: Sequence[range]) -> tuple[int, ...]:
    """Return where in a row of places the state begins anew: at a recording's start, and after a gap."""
    begins = {recording.start for recording in recordings}
    return tuple(
        n for n, place in enumerate(places) if n == 0 or place in begins or places[n - 1] != place - 1
    )


def thinned(count: int, wanted: int, dropped: frozenset[int]) -> tuple[int, ...]:
    """Return at most ``wanted`` places of ``count``, spread evenly over those that were not dropped."""
    left = [place for place in range(count) if place not in dropped]
    if len(left) <= wanted:
        return tuple(left)
    return tuple(left[n] for n in np.linspace(0, len(left) - 1, wanted).round().astype(int)) if wanted else ()


def with_context(
    windows: NDArray[np.float32], starts: Sequence[int], window: int, context: int
) -> NDArray[np.float32]:
    """Put before each window the samples that a device has kept of those before it; zeros at a start.

    Args:
        windows: Shape (n, ...) of ``window`` samples x channels each, in order.
        starts: Where a recording begins.
        window: Samples of a window.
        context: Samples kept.

    Returns:
        Shape (n, context + window, channels).
    """
    rows = windows.reshape(len(windows), window, -1)
    before = np.zeros((context, rows.shape[2]), np.float32)
    begins = frozenset(starts)
    found = np.empty((len(rows), context + window, rows.shape[2]), np.float32)
    for n, row in enumerate(rows):
        if n in begins:
            before = np.zeros_like(before)
        found[n] = np.concatenate([before, row])
        before = found[n][-context:] if context else before
    return found
