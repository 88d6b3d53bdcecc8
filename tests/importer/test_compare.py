"""A variant that answers wrongly without an error is left out, and the right one judges."""

import msgspec
import numpy as np

from edgekit.core.spec import Variant
from edgekit.importer.compare import disagreements
from edgekit.importer.trial import VariantAnswers


def variant(name, precision="fp32"):
    return Variant(id=name, backend="null", precision=precision)


def answers(array, items=()):
    return VariantAnswers(outputs={"scores": (np.float32(array),)}, items=(items,))


RIGHT = [[0.1, 0.2, 0.7, 0.0]]


def test_an_answer_that_is_no_number_leaves_a_variant_out_whatever_its_rank():
    rows = {"first": answers([[np.nan, 0.2, 0.7, 0.0]]), "second": answers(RIGHT)}
    judge, excluded = disagreements(rows, [variant("first"), variant("second")])
    assert judge == "second"
    assert "no finite numbers" in excluded["first"]


def test_the_same_answer_everywhere_is_no_answer():
    rows = {"first": answers([[0.5, 0.5, 0.5, 0.5]]), "second": answers(RIGHT)}
    judge, excluded = disagreements(rows, [variant("first"), variant("second")])
    assert judge == "second"
    assert "one value everywhere" in excluded["first"]


def test_of_noise_the_same_answer_everywhere_is_an_answer():
    assert disagreements({"a": answers([[0.0, 0.0, 0.0]])}, [variant("a")], is_noise=True) == ("a", {})


def test_a_float_variant_judges_and_int8_may_differ_by_more_than_float():
    near, far = [[0.12, 0.24, 0.6, 0.02]], [[0.7, 0.1, 0.2, 0.4]]
    rows = {"int8": answers(near), "float": answers(RIGHT), "other": answers(near), "wrong": answers(far)}
    variants = [variant("int8", "int8"), variant("float"), variant("other"), variant("wrong", "int8")]
    judge, excluded = disagreements(rows, variants)
    assert judge == "float"
    assert excluded.keys() == {"other", "wrong"}


def test_lists_are_compared_by_what_they_see_and_not_by_their_order():
    cat, dog = {"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.8}
    rows = {
        "first": answers(RIGHT, [cat, dog]),
        "turned": answers([[0.7, 0.0, 0.1, 0.2]], [dog, cat]),
        "blind": answers(RIGHT, [cat]),
    }
    variants = [variant("first"), variant("turned"), variant("blind")]
    _, excluded = disagreements(rows, variants, is_list=True)
    assert excluded.keys() == {"blind"}
    assert "dog 0.80" in excluded["blind"]


def test_without_any_answer_nothing_judges():
    assert disagreements({}, [variant("first")]) == ("", {})


def test_int8_computed_in_floats_is_left_out_where_its_scores_move_and_not_where_they_are_close():
    as_float = {"properties": {"LP_TRANSFORMS_MODE": "NO"}}
    right = np.concatenate([np.full((1, 4, 9), 300.0), np.full((1, 3, 9), 0.1)], axis=1)
    right[0, :, 0] += 7
    variants = [variant("lite", "int8"), variant("close", "int8"), variant("far", "int8")]
    variants = [*variants[:1], *(msgspec.structs.replace(v, options=as_float) for v in variants[1:])]
    rows = {"lite": answers(right)}
    for name, factor in (("close", 1.1), ("far", 1.3)):
        other = right.copy()
        other[:, 4:] *= factor
        rows[name] = answers(other)
    judge, excluded = disagreements(rows, variants, axis=1)
    assert (judge, set(excluded)) == ("lite", {"far"})
    assert "30%" in excluded["far"]
    assert disagreements(rows, variants)[1] == {}  # no dense detector's rows
