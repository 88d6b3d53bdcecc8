"""Copies of arrays that keep the interpreter. NumPy's own let another thread have it, from 500 numbers on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Rows:
    """The rows of an array, which are written one by one; ``array`` is contiguous."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self._row_bytes = array.nbytes // array.shape[0]
        self._data = None if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data

    def put(self, row: int, sample: NDArray[Any]) -> None:
        """Write a row; ``sample`` is of the array's type, and of a row's shape beside dimensions of 1.

        Raises:
            ValueError: It is of another size.
        """
        if self._data is None:
            self._array[row] = sample.reshape(self._array.shape[1:])
            return
        at = row * self._row_bytes
        self._data[at : at + self._row_bytes] = sample.reshape(-1).view(np.uint8).data


def copied(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only copy.

    >>> copied(np.arange(6).reshape(2, 3)[:, ::2]).tolist()
    [[0, 2], [3, 5]]
    """
    copy: NDArray[Any] = (
        array.copy() if array.dtype.hasobject else np.ndarray(array.shape, array.dtype, array.tobytes())
    )
    return copy
