"""Masks as arrays, and as the run lengths of an item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError
from edgekit.core.spec import Box, Mask

MAX_RUNS = 20_000
"""A mask of more runs is refused: it would not fit in a message."""


def to_mask(cells: NDArray[np.bool_], area: Box) -> Mask:
    """Return an item's mask of an array of cells.

    >>> to_mask(np.array([[False, True], [True, True]]), (0, 0, 8, 8)).runs
    (1, 3)

    Args:
        cells: Shape (height, width), bool; neither is 0.
        area: The box that the cells cover, in pixels of the source frame.

    Raises:
        TensorError: The array has another shape, or more than 20,000 runs.
    """
    if cells.ndim != 2 or not cells.size:
        raise TensorError(f"mask: want cells of shape (height, width), got {list(cells.shape)}")
    flat = cells.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=len(flat)).tolist()
    if flat[0]:
        runs.insert(0, 0)
    if len(runs) > MAX_RUNS:
        raise TensorError(f"mask: {len(runs)} runs, at most {MAX_RUNS} are allowed; use fewer cells")
    return Mask(area=area, width=cells.shape[1], height=cells.shape[0], runs=tuple(runs))


def cells_of(mask: Mask) -> NDArray[np.bool_]:
    """Return a mask's cells, shape (height, width), bool.

    Raises:
        TensorError: Its runs do not add up to its cells.
    """
    if sum(mask.runs) != mask.width * mask.height:
        raise TensorError(f"mask: runs of {sum(mask.runs)} cells, want {mask.width} x {mask.height}")
    is_on = np.arange(len(mask.runs)) % 2 == 1
    return np.repeat(is_on, mask.runs).reshape(mask.height, mask.width)
