"""What several families of detectors conclude alike: the units of their boxes, by the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.spec import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LARGEST_SHARE = 4.0
"""A box's share of the input is at most a little over 1; a box in pixels of 4 at most would be no object."""


def units_of(boxes: Sequence[NDArray[np.float32]], assumed: str, why: str) -> Finding:
    """Return whether boxes are pixels of the input or shares of its sides, by the largest value.

    Args:
        boxes: The four numbers of every box, for each picture tried; empty if nothing was tried.
        assumed: "pixels" or "shares", what the family writes, where nothing was tried.
        why: Whose convention that is.
    """
    finite = [array[np.isfinite(array)] for array in boxes]
    largest = max((float(array.max()) for array in finite if array.size), default=None)
    if largest is None:
        return Finding("units", assumed, "assumed", why)
    units = "pixels" if largest > _LARGEST_SHARE else "shares"
    return Finding("units", units, "tried", f"the largest number of a box is {largest:.4g}")
