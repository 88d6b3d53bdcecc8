import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import ProtocolError
from edgekit.core.sketch import MAX_BUCKETS, Histogram, Sketch

values = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200)


def filled(numbers):
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


@given(values, st.floats(0, 1))
def test_a_quantile_is_within_its_bound_of_the_exact_one(numbers, q):
    histogram = filled(numbers)
    exact = sorted(numbers)[math.floor(q * (len(numbers) - 1))]
    error = 2 ** (2 ** -(histogram.scale + 1)) - 1
    assert abs(histogram.quantile(q) - exact) <= exact * error * 1.001


@given(values, values)
def test_merging_equals_adding_everything_to_one(left, right):
    merged = filled(left)
    merged.merge(filled(right))
    wire, expected = merged.to_wire(), filled(left + right).to_wire()
    assert (wire.counts, wire.offset, wire.scale) == (expected.counts, expected.offset, expected.scale)


@given(values)
def test_the_wire_form_brings_everything_back(numbers):
    histogram = filled(numbers)
    again = Histogram.from_wire(histogram.to_wire())
    assert again.to_wire() == histogram.to_wire()
    assert again.count == len(numbers)


@given(st.lists(st.floats(1e-12, 1e18), max_size=600))
def test_memory_is_bounded_whatever_is_added(numbers):
    assert len(filled(numbers).to_wire().counts) < 4 * MAX_BUCKETS * 64
    assert len(filled(numbers)._counts) <= MAX_BUCKETS


def test_zero_negative_and_non_finite_numbers_do_no_harm():
    histogram = filled([0.0, -1.0, math.nan, math.inf, 5.0])
    assert histogram.count == 3
    assert histogram.quantile(1.0) == pytest.approx(5.0, rel=0.02)


def test_a_hostile_wire_form_is_refused():
    with pytest.raises(ProtocolError):
        Histogram.from_wire(Sketch(5, 0, 0, [1, -1], 0.0, 0.0, 0.0))
    with pytest.raises(ProtocolError):
        Histogram.from_wire(Sketch(99, 0, 0, [1], 0.0, 0.0, 0.0))


@pytest.mark.parametrize("scale", [-10, -1, 0, 5])
def test_a_histogram_of_any_scale_has_quantiles_and_counts(scale):
    coarse = Histogram.from_wire(Sketch(scale, 0, 0, [10], 20.0, 1.5, 2.0))
    assert coarse.quantile(0.5) <= 2.0
    coarse.add(1.7)
    assert coarse.count_above(0.5) == 11
    assert coarse.count_above(2.0**20) == 0


@given(st.lists(st.floats(0.01, 1e6), max_size=200), st.floats(0.01, 1e6))
def test_count_above_never_counts_a_number_that_is_not_above(values, limit):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.count_above(limit)
    assert sum(v > limit * 1.03 for v in values) <= found <= sum(v > limit * 0.9999999 for v in values)
