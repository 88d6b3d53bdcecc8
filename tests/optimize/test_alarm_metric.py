"""Agreement of alarms: rare ones count as much as their absence, and where there are none, the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import UsageError
from edgekit.core.spec import Item
from edgekit_optimize.data.dataset import Dataset
from edgekit_optimize.metrics.alarm import balanced, rank_correlation, ranks
from edgekit_optimize.metrics.table import METRICS, Observed, choose_metric, score, settle

THRESHOLD = 1.0


def said(*values):
    """What an anomaly detector says of windows with these errors."""
    items = tuple((decision(value),) for value in values)
    return Observed({"reconstruction": np.array(values, np.float32)[:, None]}, items)


def decision(value):
    label = "anomaly" if value >= THRESHOLD else "normal"
    return Item(label=label, score=0.5, index=int(value >= THRESHOLD), value=value)


def samples(observed):
    count = len(observed.items)
    return Dataset(tuple(map(str, range(count))), {"window": np.zeros((count, 2), np.float32)})


def scored(reference, found, name="alarm"):
    return score(METRICS[name], reference, found, samples(reference))


RARE = said(*[0.1] * 97, 2.0, 3.0, 4.0)


def test_a_detector_that_never_raises_an_alarm_agrees_by_half_however_rare_alarms_are():
    found = scored(RARE, said(*[0.1] * 100))
    assert (found.value, found.reference, found.drop) == (0.5, 1.0, 0.5)


def test_a_missed_alarm_costs_its_share_of_the_alarms():
    found = scored(RARE, said(*[0.1] * 97, 2.0, 3.0, 0.9))
    assert found.value == pytest.approx((1 + 2 / 3) / 2)
    assert found.low <= found.drop <= found.high


def test_a_false_alarm_costs_its_share_of_the_quiet_samples():
    assert scored(RARE, said(1.1, *[0.1] * 96, 2.0, 3.0, 4.0)).value == pytest.approx((96 / 97 + 1) / 2)


def test_equal_decisions_on_few_alarms_leave_much_open():
    found = scored(RARE, said(*[0.2] * 97, 2.0, 3.0, 4.0))
    assert (found.drop, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(((1 - 0.05 ** (1 / 97)) + (1 - 0.05 ** (1 / 3))) / 2)


def test_a_draw_without_alarms_counts_the_decisions_that_it_has():
    same = np.array([1.0, 0.0, 1.0])
    weights = np.array([[1, 1, 1], [1, 3, 0], [0, 0, 2]])
    assert balanced(same, ["normal", "normal", "anomaly"], weights).tolist() == [0.75, 0.25, 1.0]


def test_an_output_that_is_no_number_decides_nothing():
    broken = said(*[0.1] * 97, 2.0, 3.0, 4.0)
    broken.outputs["reconstruction"][-1] = np.nan
    assert scored(RARE, broken).value == pytest.approx((1 + 2 / 3) / 2)
    assert scored(RARE, broken, "rank").value == 0.0


def test_without_any_alarm_rank_replaces_alarm_with_a_warning():
    metric, note = settle(METRICS["alarm"], said(0.1, 0.2, 0.3, 0.4))
    assert metric.id == "rank"
    assert "decides 'normal' for all 4 samples" in note
    assert "give data with and without alarms" in note


@pytest.mark.parametrize(("alarms", "has_warning"), [(3, True), (9, True), (10, False)])
def test_few_alarms_give_a_warning_with_the_weight_of_each(alarms, has_warning):
    metric, note = settle(METRICS["alarm"], said(*[0.1] * 90, *[2.0] * alarms))
    assert metric.id == "alarm"
    assert bool(note) == has_warning
    if has_warning:
        assert f"for only {alarms} of {90 + alarms} samples" in note
        assert f"{50 / alarms:.1f} points" in note


@pytest.mark.parametrize("name", ["iou", "rank", "cosine"])
def test_other_metrics_stay_as_they_were_chosen(name):
    assert settle(METRICS[name], said(0.1, 0.2)) == (METRICS[name], "")


def test_the_order_of_scores_is_kept_or_lost():
    reference = said(0.1, 0.2, 0.3, 0.4)
    assert scored(reference, said(0.5, 0.6, 0.7, 0.8), "rank").value == pytest.approx(1.0)
    assert scored(reference, said(0.4, 0.3, 0.2, 0.1), "rank").value == 0.0
    found = scored(reference, said(0.1, 0.3, 0.2, 0.4), "rank")
    assert found.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert found.low <= found.drop <= found.high


def test_a_model_that_says_one_thing_of_everything_has_no_order():
    assert scored(said(0.1, 0.2, 0.3), said(0.1, 0.1, 0.1), "rank").value == 0.0
    assert scored(said(0.1, 0.1, 0.1), said(0.2, 0.2, 0.2), "rank").value == 1.0


def test_equal_values_share_their_rank():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


ROWS = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=12)


@given(ROWS)
def test_rank_correlation_is_a_share_and_the_same_both_ways_and_at_any_scale(rows):
    a, b = np.array(rows, np.float64).T
    found = rank_correlation(a, b)
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(rank_correlation(b, a))
    assert found == pytest.approx(rank_correlation(np.exp(a), 2 * b - 3))


@pytest.mark.parametrize("task", ["anomaly", "voice"])
def test_both_can_be_asked_for_by_name(task):
    data = samples(said(0.1))
    assert choose_metric("auto", task, data).id == "alarm"
    assert choose_metric("rank", task, data).id == "rank"
    with pytest.raises(UsageError, match="does not apply to task 'classify'"):
        choose_metric("rank", "classify", data)
