# ruff: noqa: E501  tables read best on one line
"""Verdicts, comparisons and cautions."""

import doctest
import importlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_made_up import NOT_THE_BOARD, candidate, score, study, timing

from edgekit_optimize.report import figures, labels, scales
from edgekit_optimize.study import TargetResult

replace = msgspec.structs.replace


def row(id_, technique="litert-static", backend="litert", precision="int8", top1=0.877, ms=5.0):
    return candidate((id_, technique, backend, precision, top1, ms, 5.0, 60, False, True, 1.0))


FLOAT = row("f", "litert-float", precision="fp32", top1=0.878, ms=10.0)


def verdict_of(*candidates, **target):
    target = {
        "profile": "intel-x86",
        "title": "A board",
        "chosen": "q",
        "basis": "measured on this board",
    } | target
    whole = study(candidates=candidates, targets=(TargetResult(**target),), reference="f")
    return figures.sentence(whole, figures.verdict(whole, whole.targets[0]))


def test_a_verdict_is_one_sentence():
    timed = replace(row("q"), timings=(timing(4.79, 60),))
    base = replace(FLOAT, timings=(timing(9.79, 90),), bytes=20_000_000)
    assert verdict_of(base, timed) == (
        "A board runs q: 2.0 times as fast as float on LiteRT (5.00 against 10.0 ms, 1 thread), "
        "4.0 times smaller (5.00 MB against 20.0 MB), "
        "0.10 points of top-1 lost (95 % interval of the loss: \N{MINUS SIGN}1.00 to 1.09); "
        "basis: measured on this board."
    )


def test_times_of_another_machine_name_it():
    assert "1 thread of intel-x86" in verdict_of(FLOAT, row("q"), profile="jetson", basis=NOT_THE_BOARD)


def test_times_of_the_board_itself_are_used_where_there_are_any():
    here = timing(30.0, 50, threads=4, profile="rpi5")
    there = replace(FLOAT, timings=(*FLOAT.timings, here))
    chosen = replace(row("q"), timings=(*row("q").timings, replace(here, p50_ms=10.0)))
    said = verdict_of(there, chosen, profile="rpi5")
    assert "(10.2 against 30.2 ms, 4 threads)" in said
    assert "intel-x86" not in said


def test_without_a_pair_of_times_no_speed_is_claimed():
    assert "speed against float on LiteRT not measured" in verdict_of(FLOAT, replace(row("q"), timings=()))


def test_a_backend_without_a_float_form_is_compared_with_the_reference_and_says_so():
    said = verdict_of(FLOAT, row("q", backend="openvino", technique="openvino-static"))
    assert "the reference f (there is no float form on the same backend)" in said


def test_a_chosen_float_form_is_not_compared_with_itself():
    assert "the float form itself" in verdict_of(FLOAT, chosen="f")


def test_a_board_without_a_variant_gets_the_reason():
    said = verdict_of(FLOAT, chosen="", why="it has no runtime of these")
    assert said == "A board: no variant was chosen: it has no runtime of these."


def test_a_choice_that_is_not_among_the_candidates_is_ignored():
    assert "no variant was chosen" in verdict_of(FLOAT, chosen="elsewhere")


def test_an_unscored_choice_says_that_its_accuracy_is_unknown():
    assert "accuracy not measured" in verdict_of(FLOAT, replace(row("q"), score=None))


def test_a_gain_is_called_a_gain():
    assert "0.20 points of top-1 gained" in verdict_of(FLOAT, row("q", top1=0.880))


def test_a_larger_file_is_called_larger():
    assert "2.0 times larger" in verdict_of(replace(FLOAT, bytes=2_500_000), row("q"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kept": True, "gate": "fail", "verdict": "loses too much"}, "failed the gate: loses too much"),
        ({"score": score(0.875)}, "the interval reaches 1.29 points, beyond the 1.00 allowed"),
        ({"timings": (timing(5.0, 60, noise=0.4),)}, "rounds differ by up to 40 %"),
    ],
)
def test_a_study_that_implies_a_risk_has_a_caution(changed, said):
    quiet = replace(row("q"), score=score(0.878, spread=0.001))
    target = TargetResult(profile="p", title="P", chosen="q")
    calm = study(candidates=(FLOAT, quiet), targets=(target,), warnings=())
    assert figures.cautions(calm) == ()
    (one,) = figures.cautions(replace(calm, candidates=(FLOAT, replace(quiet, **changed))))
    assert said in one


coordinates = st.tuples(st.floats(0, 100), st.floats(0, 1))


@given(st.dictionaries(st.integers(0, 30), coordinates, max_size=12))
def test_the_front_has_exactly_the_unbeaten_candidates(at):
    kept = figures.front(at)
    assert [at[one][0] for one in kept] == sorted(at[one][0] for one in kept)
    for key, (cost, worth) in at.items():
        beaten = any((c <= cost and w > worth) or (c < cost and w >= worth) for c, w in at.values())
        same = any(at[one] == (cost, worth) for one in kept)
        assert (not beaten) == same, key


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=20))
def test_a_cost_axis_keeps_order_and_stays_in_the_drawing(values):
    axis = scales.cost_scale(values, 50.0, 800.0)
    at = [axis.at(one) for one in sorted(values)]
    assert at == sorted(at)
    assert all(50 <= one <= 800 for one in at)
    assert 1 <= len(axis.ticks()) <= 60 or axis.is_log


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.3, 1), st.floats(0, 0.2))
def test_a_quality_axis_shows_the_reference_and_the_gate(values, reference, drop):
    axis = scales.quality_scale(values, reference, reference - drop, 400.0, 10.0)
    assert axis.low <= reference - drop <= reference <= axis.high
    assert all(10 <= axis.at(one) <= 400 for one in values)


dots = st.builds(
    labels.Dot, x=st.floats(0, 300), y=st.floats(0, 200), radius=st.floats(2, 12), name=st.text("abc", min_size=1, max_size=12),
    weight=st.integers(0, 3),
)  # fmt: skip


@given(st.lists(dots, max_size=15))
def test_labels_touch_nothing_and_stay_in_their_area(points):
    area = (20.0, 0.0, 300.0, 200.0)
    boxes = [labels.box(one, 11.0) for one in labels.place_labels(points, area, 11.0)]
    for index, one in enumerate(boxes):
        assert area[0] <= one[0]
        assert one[2] <= area[2]
        assert not any(labels.touch(one, other) for other in boxes[:index])


@pytest.mark.parametrize("name", ["card", "figures", "markup", "numbers", "scales"])
def test_examples_in_docstrings_hold(name):
    found = doctest.testmod(importlib.import_module(f"edgekit_optimize.report.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_a_file_of_about_the_same_size_is_called_so():
    assert "about the same size (5.00 MB against 5.10 MB)" in verdict_of(
        replace(FLOAT, bytes=5_100_000), row("q")
    )
