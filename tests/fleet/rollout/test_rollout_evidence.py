import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.sketch import Histogram
from edgekit.core.spec import Guards
from edgekit_fleet.rollout.evidence import ALPHA, Baseline, Tally, add, baseline, breach, log_e_value, summed

GUARDS = Guards(error_ratio=0.02, p99_ratio=1.5)


def exact_e_value(bad, count, limit, steps=20_000):
    """The same mixture by plain numerical integration."""
    total = 0.0
    for i in range(steps):
        p = limit + (1 - limit) * (i + 0.5) / steps
        total += math.exp(
            bad * math.log(p / limit) + (count - bad) * math.log((1 - p) / (1 - limit))
            if p < 1
            else -math.inf
        )
    return total / steps


@pytest.mark.parametrize(
    ("bad", "count", "limit"), [(1, 1, 0.3), (3, 30, 0.01), (9, 100, 0.05), (20, 20, 0.5)]
)
def test_the_e_value_is_the_mixture_likelihood_ratio(bad, count, limit):
    assert math.exp(log_e_value(bad, count, limit)) == pytest.approx(
        exact_e_value(bad, count, limit), rel=1e-3
    )


@settings(deadline=None)
@given(st.integers(1, 2000), st.data(), st.floats(0.001, 0.5))
def test_more_bad_frames_are_never_less_evidence(count, data, limit):
    bad = data.draw(st.integers(0, count - 1))
    assert log_e_value(bad, count, limit) <= log_e_value(bad + 1, count, limit) + 1e-9


def first_crossing(seed, share, limit, count):
    """Look after every frame, as the fleet does; return when the evidence suffices, or None."""
    rng, bad = random.Random(seed), 0
    for n in range(1, count + 1):
        bad += rng.random() < share
        if n % 5 == 0 and log_e_value(bad, n, limit) >= math.log(1 / ALPHA):
            return n
    return None


def test_a_version_at_its_limit_is_practically_never_condemned_however_often_one_looks():
    assert sum(first_crossing(seed, 0.02, 0.02, 2000) is not None for seed in range(300)) <= 1


def test_a_bad_version_is_condemned_after_few_frames():
    found = [first_crossing(seed, 0.3, 0.02, 2000) for seed in range(50)]
    assert None not in found
    assert sorted(found)[25] <= 40


def tally(frames, errors=0, slow=0, reports=3):
    return Tally(frames, errors, min(errors, reports), frames, slow, min(slow, reports))


def test_a_hiccup_in_one_report_halts_nothing():
    bad = Tally(frames=200, errors=60, error_reports=1, timed=200, slow=60, slow_reports=1)
    assert breach(GUARDS, {}, {"a": bad}) is None
    assert breach(GUARDS, {}, {"a": Tally(200, 60, 2, 200, 60, 2)})


def test_a_few_frames_are_no_evidence():
    assert breach(GUARDS, {}, {"a": tally(20, errors=20)}) is None


def test_a_breach_names_the_device():
    found = breach(GUARDS, {}, {"good": tally(1000), "bad": tally(300, errors=40)})
    assert found == "40 of 300 frames failed on bad; 2.00% may"


def test_what_is_too_little_on_each_device_is_enough_on_all_together():
    each = {f"cam-{i}": tally(100, errors=7) for i in range(12)}
    assert breach(GUARDS, {}, {"cam-1": each["cam-1"]}) is None
    assert "12 devices together" in breach(GUARDS, {}, each)


def test_a_guard_of_zero_is_no_rule():
    assert breach(Guards(), {}, {"a": tally(1000, errors=900, slow=900)}) is None


def test_errors_that_were_there_before_are_allowed_for():
    before = {"a": Baseline(frames=1000, errors=300)}
    assert breach(GUARDS, before, {"a": tally(1000, errors=310)}) is None
    assert breach(GUARDS, before, {"a": tally(1000, errors=500)})


def test_without_frames_there_is_no_judgement():
    assert breach(GUARDS, {"a": Baseline()}, {"a": Tally()}) is None
    assert breach(GUARDS, {}, {}) is None


def histogram(*values):
    found = Histogram()
    for value in values:
        found.add(value)
    return found


def test_the_baseline_bounds_the_p99_from_above_when_frames_are_few():
    few, many = [10.0] * 99 + [50.0], ([10.0] * 995 + [50.0] * 5) * 10
    assert baseline(100, 0, histogram(*few)).p99_ms == pytest.approx(50, rel=0.02)
    assert baseline(5000, 0, histogram(*many)).p99_ms < 11


def test_too_few_frames_before_judge_no_latency():
    assert baseline(10, 0, histogram(*[10.0] * 10)).p99_ms == 0
    assert add(Tally(), 50, 0, histogram(*[900.0] * 50), 0.0).slow == 0


def test_frames_slower_than_allowed_are_counted_by_report():
    found = add(Tally(), 100, 2, histogram(*[10.0] * 95, *[40.0] * 5), 20.0)
    found = add(found, 100, 0, histogram(*[10.0] * 100), 20.0)
    assert found == Tally(200, 2, 1, 200, 5, 1)
    assert summed([found, found]) == Tally(400, 4, 2, 400, 10, 2)
    assert add(Tally(), 0, 3, None, 20.0) == Tally(3, 3, 1)
