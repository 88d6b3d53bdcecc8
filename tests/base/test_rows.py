"""Rows are written into a batch's memory, and outputs copied out of it, byte by byte."""

import numpy as np
import pytest

from edgekit.base.dtypes import TEXT
from edgekit.base.rows import Rows, copied


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool"])
def test_each_row_gets_its_sample_and_no_other_changes(dtype):
    array = np.zeros((3, 2, 2), dtype)
    sample = np.arange(1, 5).reshape(1, 2, 2).astype(dtype)
    Rows(array).put(1, sample)
    assert array.tolist() == [np.zeros((2, 2)).tolist(), sample[0].tolist(), np.zeros((2, 2)).tolist()]


def test_a_sample_in_another_order_of_memory_is_written_by_its_meaning():
    array = np.zeros((2, 2, 3), np.float32)
    Rows(array).put(0, np.arange(6, dtype=np.float32).reshape(3, 2).T)
    assert array[0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_a_sample_of_another_size_is_refused_and_nothing_is_written():
    array = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="different"):
        Rows(array).put(0, np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="different"):
        Rows(array).put(2, np.ones((1, 3), np.float32))
    assert not array.any()


def test_texts_are_written_too():
    array = np.full((2, 2), "", TEXT)
    Rows(array).put(1, np.array([["a", "b"]], TEXT))
    assert array.tolist() == [["", ""], ["a", "b"]]


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3)[:, ::2], np.array([["a"]], TEXT), np.zeros((0, 2))]
)
def test_a_copy_has_the_same_numbers_and_memory_of_its_own(array):
    copy = copied(array)
    assert (copy.tolist(), copy.shape, copy.dtype) == (array.tolist(), array.shape, array.dtype)
    assert not np.shares_memory(copy, array)
