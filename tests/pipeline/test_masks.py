"""A mask comes back as it was, whatever it covers."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekit.core.errors import TensorError
from edgekit.core.spec import Mask
from edgekit.pipeline.masks import cells_of, to_mask

grids = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(grids)
def test_a_mask_comes_back_as_it_was_over_the_wire_too(cells):
    mask = to_mask(cells, (0.0, 0.0, 1.0, 1.0))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(mask), type=Mask)
    np.testing.assert_array_equal(cells_of(again), cells)


@given(grids)
def test_the_box_around_a_mask_is_that_around_its_cells(cells):
    height, width = cells.shape
    rows, columns = np.nonzero(cells)
    extent = to_mask(cells, (10, 20, 10 + 2 * width, 20 + 3 * height)).extent()
    if not len(rows):
        assert extent is None
    else:
        expected = (columns.min() * 2 + 10, rows.min() * 3 + 20, columns.max() * 2 + 12, rows.max() * 3 + 23)
        assert extent == pytest.approx(expected)


def test_a_mask_that_fits_no_message_is_refused():
    checks = np.indices((200, 200)).sum(0) % 2 == 0
    with pytest.raises(TensorError, match="use fewer cells"):
        to_mask(checks, (0, 0, 1, 1))


def test_runs_that_do_not_add_up_are_refused():
    with pytest.raises(TensorError, match="runs of 3 cells, want 2 x 2"):
        cells_of(Mask(area=(0, 0, 1, 1), width=2, height=2, runs=(1, 2)))
