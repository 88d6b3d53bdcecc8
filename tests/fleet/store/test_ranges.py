"""The watermark is what a set of sequence numbers would say, however they arrive."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edgekit_fleet.store import ranges

pieces = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda one: (one[0], one[0] + one[1])), max_size=25
)


@given(st.lists(pieces, max_size=4))
def test_ranges_agree_with_a_set(batches):
    watermark, above, known = 0, [], set()
    for batch in batches:
        for first, last in batch:
            expected = [number for number in range(first, last + 1) if number not in known]
            assert ranges.missing(watermark, above, first, last) == expected
        watermark, above = ranges.add(watermark, above, batch)
        for first, last in batch:
            known.update(range(first, last + 1))
    contiguous = next(number for number in range(100) if number + 1 not in known)
    assert watermark == contiguous
    assert {n for first, last in above for n in range(first, last + 1)} == {
        n for n in known if n > contiguous
    }
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(above))
