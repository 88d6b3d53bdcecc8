from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.sketch import Histogram
from edgekit.core.spec import Guards
from edgekit.update.guards import TrialStats, judge, tighter, wilson


def times(values) -> object:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram.to_wire()


def stats(frames=100, errors=0, crashes=0, predictions=None, ms=(10.0,)) -> TrialStats:
    values = [ms[i % len(ms)] for i in range(frames - errors)]
    return TrialStats(
        frames=frames,
        errors=errors,
        crashes=crashes,
        infer_ms=times(values),
        steady_ms=times(values),
        predictions=frames if predictions is None else predictions,
    )


ALL = Guards(p99_ms=80, p99_ratio=1.5, error_ratio=0.01, event_ratio=3, min_frames=30)
GOOD = stats()


def verdict(observed, baseline=GOOD, guards=ALL, elapsed_s=30.0, soak_s=30.0):
    return judge(observed, baseline, guards, elapsed_s, soak_s)


def test_a_version_like_the_one_before_commits_after_the_soak_and_not_before():
    assert verdict(GOOD, elapsed_s=29.9).action == "continue"
    assert verdict(GOOD).action == "commit"


def test_a_crash_ends_the_trial_at_once():
    found = verdict(stats(crashes=1), elapsed_s=0.1)
    assert (found.action, found.measured["crashes"]) == ("roll_back", 1.0)


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (stats(frames=40, errors=10), "error_ratio"),
        (stats(frames=40, ms=(200.0,)), "p99_ms"),
        (stats(frames=40, ms=(30.0,)), "p99_ratio"),
        (stats(frames=300, predictions=0), "event_ratio"),
        (stats(frames=100, predictions=900), "event_ratio"),
    ],
)
def test_what_is_clearly_bad_is_rolled_back_before_the_soak_ends(bad, rule):
    found = verdict(bad, stats(frames=300, predictions=300), elapsed_s=5.0)
    assert found.action == "roll_back"
    assert rule in found.reason


def test_one_error_in_the_first_frames_is_not_evidence():
    assert verdict(stats(frames=1, errors=1), elapsed_s=1).action == "continue"
    assert verdict(stats(frames=12, errors=1), elapsed_s=1).action == "continue"


def test_one_slow_frame_in_the_first_thirty_is_not_evidence():
    values = times([500.0] + [10.0] * 29)
    slow_start = TrialStats(frames=30, predictions=30, infer_ms=values, steady_ms=values)
    assert verdict(slow_start, elapsed_s=5).action == "continue"


def test_in_doubt_a_trial_goes_on_and_ends_after_four_soaks():
    doubtful = stats(frames=40, errors=1)
    assert verdict(doubtful).action == "continue"
    assert verdict(doubtful, elapsed_s=119.0).action == "continue"
    assert verdict(doubtful, elapsed_s=120.0).action == "roll_back"
    recovered = stats(frames=400, errors=1)
    assert verdict(recovered, elapsed_s=100.0).action == "commit"


def test_a_trial_that_sees_too_few_frames_is_not_committed():
    found = verdict(stats(frames=29))
    assert (found.action, "only 29 frames" in found.reason) == ("continue", True)
    assert verdict(stats(frames=29), elapsed_s=120).action == "roll_back"


def test_a_first_version_has_nothing_to_be_compared_with_and_the_reason_says_so():
    found = verdict(GOOD, baseline=None)
    assert found.action == "commit"
    assert "there is none" in found.reason
    assert verdict(stats(frames=40, ms=(200.0,)), baseline=None).action == "roll_back"


def test_a_version_that_finds_nothing_any_more_is_not_committed_even_on_few_frames():
    blind = stats(frames=100, predictions=0)
    assert verdict(blind, elapsed_s=10).action == "continue"
    assert verdict(blind).action == "continue"
    assert verdict(blind, elapsed_s=120).action == "roll_back"


def test_a_quiet_scene_is_no_reason_to_roll_back():
    quiet_before, quiet_now = stats(predictions=1), stats(predictions=4)
    assert verdict(quiet_now, quiet_before).action == "commit"


def test_no_rules_no_objection():
    awful = stats(frames=100, errors=100, predictions=0)
    assert verdict(awful, guards=Guards()).action == "commit"


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0.5, 4))
def test_wilson_bounds_hold_the_ratio_and_stay_ratios(hits, trials, z):
    hits = min(hits, trials)
    low, high = wilson(hits, trials, z)
    assert 0 <= low <= hits / trials + 1e-12
    assert hits / trials - 1e-12 <= high <= 1


@given(st.integers(10, 300), st.integers(0, 300), st.floats(1, 200))
def test_more_errors_never_turn_a_rollback_into_something_else(frames, errors, slow_ms):
    errors = min(errors, frames)
    order = {"commit": 0, "continue": 1, "roll_back": 2}
    for elapsed_s in (1.0, 30.0, 120.0):
        fewer = verdict(stats(frames=frames, errors=errors // 2, ms=(10.0, slow_ms)), elapsed_s=elapsed_s)
        more = verdict(stats(frames=frames, errors=errors, ms=(10.0, slow_ms)), elapsed_s=elapsed_s)
        if errors < frames:
            guard_of_errors = "error_ratio" in fewer.reason and fewer.action == "roll_back"
            assert not guard_of_errors or order[more.action] == 2


def test_good_versions_are_seldom_rolled_back_though_looked_at_a_hundred_times():
    """100 trials of a version with half the allowed errors and the same speed, a look at each frame."""
    rng = random.Random(7)
    before = TrialStats(
        frames=1000, predictions=1500, infer_ms=times(rng.lognormvariate(2.3, 0.1) for _ in range(1000))
    )
    wrong = 0
    for _ in range(100):
        histogram, errors, predictions = Histogram(), 0, 0
        for frame in range(1, 301):
            errors += rng.random() < 0.005
            predictions += rng.choice((1, 1, 2, 2))
            histogram.add(rng.lognormvariate(2.3, 0.1))
            if frame % 3:
                continue
            seen = TrialStats(
                frames=frame,
                errors=errors,
                predictions=predictions,
                infer_ms=histogram.to_wire(),
                steady_ms=histogram.to_wire(),
            )
            if judge(seen, before, ALL, frame / 10, 60.0).action == "roll_back":
                wrong += 1
                break
    assert wrong <= 3


def test_a_version_with_ten_times_the_allowed_errors_is_found_within_a_minute():
    rng = random.Random(3)
    found_at = []
    for _ in range(50):
        errors = 0
        for frame in range(1, 601):
            errors += rng.random() < 0.10
            if (
                verdict(stats(frames=frame, errors=errors), elapsed_s=frame / 10, soak_s=60).action
                == "roll_back"
            ):
                found_at.append(frame)
                break
    assert len(found_at) == 50
    assert sorted(found_at)[45] < 300


def test_the_same_bytes_on_an_idle_device_are_not_rolled_back_for_a_fraction_of_a_millisecond():
    """0.4 ms after 0.1 ms is four times as long, and nothing: the frame's period is 100 ms."""
    ratio = Guards(p99_ratio=2.0, min_frames=30)
    found = verdict(stats(frames=300, ms=(0.4,)), stats(frames=300, ms=(0.1,)), ratio)
    assert found.action == "commit", found.reason
    found = verdict(stats(frames=300, ms=(7.0,)), stats(frames=300, ms=(0.1,)), ratio)
    assert found.action == "roll_back", "7 ms of a period of 100 ms are a fault"


def test_one_interval_alone_neither_condemns_nor_commits():
    slow = TrialStats(frames=100, predictions=100, infer_ms=times([300.0] * 100))
    assert verdict(slow, elapsed_s=1.0).action == "continue"
    assert verdict(slow).reason.endswith("one interval only")


def test_of_two_sets_of_guards_the_stricter_rule_holds():
    assert tighter(ALL, None) == ALL
    both = tighter(Guards(p99_ms=80, event_ratio=2), Guards(p99_ms=90, error_ratio=0.1, min_frames=50))
    assert both == Guards(p99_ms=80, event_ratio=2, error_ratio=0.1, min_frames=50)
