"""Maps over a model's input: the part that shows the picture, and masks of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import BundleError
from edgekit.core.spec import Box, Mask
from edgekit.pipeline.decoders import Setup
from edgekit.pipeline.masks import MAX_RUNS, to_mask
from edgekit.pipeline.pre import Placement, place, vision

MAX_SIDE = 640
"""The longer side of a map that is scaled to the picture: finer cells cost time and show nothing new."""


def input_size_of(setup: Setup) -> tuple[int, int]:
    """Return the width and height of an image model's input.

    Raises:
        BundleError: The model takes no images.
    """
    if setup.input_size is None:
        raise BundleError(f"{setup.what}: the {setup.post.decoder!r} decoder needs an image model")
    return setup.input_size


def map_shape(setup: Setup, name: str) -> tuple[int, int]:
    """Return the rows and columns of an output with one value for each cell, -1 where they are free.

    Shapes [1, H, W], [1, H, W, 1] and [1, 1, H, W] are such outputs.

    Raises:
        BundleError: There is no such output, or it has another shape.
    """
    shape = setup.shapes.get(name)
    if shape is None:
        raise BundleError(f"{setup.what}: the {setup.post.decoder!r} decoder needs an output {name!r}")
    inner = list(shape[1:])
    if len(inner) == 3 and 1 in (inner[0], inner[2]):
        inner.pop(2 if inner[2] == 1 else 0)
    if len(shape) not in (3, 4) or shape[0] != 1 or len(inner) != 2:
        raise BundleError(
            f"{setup.what}: output {name!r}: want one value for each cell, [1, H, W], got {list(shape)}"
        )
    return inner[0], inner[1]


def flat_map(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a tensor that ``map_shape`` accepts as shape (H, W)."""
    is_inner_last = tensor.ndim == 3 or tensor.shape[3] != 1
    rows, columns = tensor.shape[-2:] if is_inner_last else tensor.shape[1:3]
    return tensor.reshape(rows, columns)


@dataclass(frozen=True, slots=True)
class Visible:
    """The cells of a map that show the picture; ``area`` is the part of the picture that they cover."""

    rows: slice
    columns: slice
    area: Box

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the area, in pixels, at least 1."""
        left, top, right, bottom = self.area
        return max(1, round(right - left)), max(1, round(bottom - top))


def visible(placement: Placement | None, size: tuple[int, int], shape: tuple[int, ...]) -> Visible:
    """Return the cells of a map that show the picture and not the border of a letterbox.

    >>> visible(place("letterbox", (640, 320), (64, 64)), (64, 64), (16, 16))
    Visible(rows=slice(4, 12, None), columns=slice(0, 16, None), area=(0.0, 0.0, 640.0, 320.0))

    Args:
        placement: The picture's position in the input; None: it is the input.
        size: Width and height of the input in pixels.
        shape: Rows and columns of the map, which covers the input.
    """
    at = placement or place("stretch", size, size)
    columns, left, right = _span(at.left, at.scale_x, at.width, size[0], shape[1])
    rows, top, bottom = _span(at.top, at.scale_y, at.height, size[1], shape[0])
    return Visible(rows, columns, (left, top, right, bottom))


def _span(offset: float, scale: float, length: int, side: int, cells: int) -> tuple[slice, float, float]:
    per_cell = side / cells
    start, stop = max(0.0, offset / per_cell), min(float(cells), (offset + scale * length) / per_cell)
    first, last = round(start), round(stop)
    if first == last:  # narrower than a cell: the one that it is in
        first = int((start + stop) / 2)
        last = first + 1
    ends = [min(float(length), max(0.0, (cell * per_cell - offset) / scale)) for cell in (first, last)]
    return slice(first, last), ends[0], ends[1]


def scaled(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map scaled (bilinear) to so many pixels, its longer side at most 640."""
    shrink = min(1.0, MAX_SIDE / max(size))
    target = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
    cv2 = vision()
    resized: NDArray[np.float32] = cv2.resize(
        np.ascontiguousarray(values), target, interpolation=cv2.INTER_LINEAR
    )
    return resized


def mask_of(cells: NDArray[np.bool_], area: Box) -> Mask:
    """Return an item's mask; one too ragged for a message gets fewer cells, half of them a side each time."""
    while np.count_nonzero(np.diff(cells.reshape(-1))) + 2 > MAX_RUNS:
        cells = cells[::2, ::2]
    return to_mask(cells, area)
