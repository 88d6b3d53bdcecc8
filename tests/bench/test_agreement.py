"""Without golden samples: variants that cannot all be right, and which of them is named."""

import numpy as np
import pytest

from edgekit.bench.agreement import differing, relative_error

RIGHT = np.array([0.1, 0.7, 0.2])
WRONG = np.array([0.7, 0.1, 0.2])
NEAR = RIGHT + 0.1
"""As far from the right answer as eight bits may be."""
FLOATS = {"a": "fp32", "b": "fp16", "c": "fp32"}


def named(precisions, **answers):
    return set(differing({name: {"y": array} for name, array in answers.items()}, precisions))


@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_of_three_float_variants_the_wrong_one_is_named_wherever_it_stands(wrong):
    answers = {name: WRONG if name == wrong else RIGHT for name in FLOATS}
    assert named(FLOATS, **answers) == {wrong}


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_of_two_float_variants_the_integer_one_decides(wrong):
    answers = {name: WRONG if name == wrong else RIGHT for name in ("a", "b")}
    assert named({"a": "fp32", "b": "fp16", "i": "int8"}, **answers, i=NEAR) == {wrong}


@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_a_float_variant_that_gives_nan_judges_nobody(wrong):
    answers = {name: np.full(3, np.nan) if name == wrong else RIGHT for name in FLOATS}
    assert named(FLOATS, **answers) == {wrong}


def test_an_integer_variant_may_be_further_off_and_never_judges_where_there_is_a_float_one():
    assert named({"i": "int8", "j": "int8", "a": "fp32"}, i=NEAR, j=NEAR, a=RIGHT) == set()
    assert named({"i": "int8", "j": "int8", "a": "fp32"}, i=WRONG, j=NEAR, a=RIGHT) == {"i"}


def test_the_reason_names_the_judge_and_the_difference():
    reasons = differing({"a": {"y": RIGHT}, "b": {"y": RIGHT}, "c": {"y": WRONG}}, FLOATS)
    assert reasons == {"c": "differs from a by 115% on synthetic input: one of them is wrong"}


def test_one_variant_or_none_agrees_with_itself():
    assert named(FLOATS, a=RIGHT) == set()
    assert named({}) == set()


def test_outputs_whose_size_depends_on_the_data_are_not_compared():
    assert relative_error({"n": np.ones(3), "y": RIGHT}, {"n": np.ones(4), "y": RIGHT}) == 0
