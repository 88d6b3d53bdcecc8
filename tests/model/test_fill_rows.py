"""Rows of requests are written into a batch as NumPy would write them."""

import numpy as np
import pytest

from edgekit.model.servable import fill_rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8, np.bool_, object])
@pytest.mark.parametrize("shape", [(4, 2, 3), (4,), (4, 6, 0)])
def test_rows_of_any_layout_come_into_the_first_ones(dtype, shape):
    given = np.arange(3 * np.prod(shape[1:], dtype=int)).astype(dtype).reshape(3, *shape[1:])
    rows = [given[:1], given[1:2], np.asfortranarray(given[2:])]
    filled, expected = np.ones(shape, dtype), np.ones(shape, dtype)
    expected[:3] = given
    fill_rows(filled, rows)
    np.testing.assert_array_equal(filled, expected)


def test_another_type_is_converted_and_another_size_refused():
    filled = np.zeros((2, 3), np.float32)
    fill_rows(filled, [np.array([1, 2, 3], np.float64)])
    assert filled[0].tolist() == [1.0, 2.0, 3.0]
    for dtype in (np.float32, np.float64):
        with pytest.raises(ValueError):
            fill_rows(filled, [np.zeros(4, dtype)])
