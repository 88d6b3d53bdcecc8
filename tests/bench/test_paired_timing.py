"""What variants cost, read from rounds of which other programs disturb many."""

import statistics
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bench.paired_timing import Rounds, levelled, quiet, rounds_in, take_turns
from edgekit.core.errors import InferenceError

SPEEDS_MS = {"fast": 5.0, "slow": 6.0}


class Scripted:
    """Answers as a lab process does, with times that the test sets: noise on demand."""

    def __init__(self, name, calls, disturbed=frozenset(), dies_at=None):
        self.variant = SimpleNamespace(id=name)
        self.calls, self.disturbed, self.dies_at = calls, disturbed, dies_at
        self.turn = -1

    def measure(self, seconds):
        self.turn += 1
        self.calls.append(self.variant.id)
        if self.turn == self.dies_at:
            raise InferenceError(f"variant {self.variant.id!r}: its process died (signal 9)")
        once_us = SPEEDS_MS[self.variant.id] * 1e3 * (3 if self.turn in self.disturbed else 1)
        return [once_us] * int(seconds * 1e6 / once_us)

    def pre_ms(self):
        return 40.0 if self.turn in self.disturbed else 1.5


@given(st.sets(st.integers(0, 29), max_size=21))
def test_a_speed_stays_the_same_while_a_quarter_of_the_rounds_is_quiet(disturbed):
    rounds, errors = take_turns([Scripted("fast", [], disturbed)], 3.0, fill=True)
    assert not errors
    assert rounds["fast"].p50_ms == pytest.approx(SPEEDS_MS["fast"])
    assert quiet(rounds["fast"].pre_ms) == 1.5


@given(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=5, max_size=30), st.data())
def test_phases_of_the_machine_and_rare_disturbances_do_not_change_who_is_faster(phases, data):
    own = {"a": 4.0, "b": 4.4, "c": 5.0, "d": 9.0}
    rows = {name: [time * phase for phase in phases] for name, time in own.items()}
    victim = data.draw(st.sampled_from(sorted(own)))
    for turn in data.draw(st.sets(st.integers(0, len(phases) - 1), max_size=(len(phases) - 1) // 2)):
        rows[victim][turn] *= data.draw(st.floats(1.0, 8.0))
    found = levelled(rows)
    assert [found[name] / found["a"] for name in own] == pytest.approx([1.0, 1.1, 1.25, 2.25])
    assert quiet(phases) * 4.0 == pytest.approx(found["a"])


def test_who_alone_ran_in_a_fast_phase_does_not_win_by_it():
    rows = {"a": [4.0] * 15, "b": [4.4] * 15, "c": [5.0] * 15, "d": [4.2] * 15}
    for turn in range(6):  # more than a quarter: the lower quartile alone would put b first
        rows["b"][turn], rows["c"][turn], rows["d"][turn] = 2.2, 2.5, 2.1
    assert min(rows, key=lambda name: quiet(rows[name])) != "a"
    found = levelled(rows)
    assert min(found, key=lambda name: found[name]) == "a"


def test_the_median_over_everything_would_have_put_the_slower_one_first():
    (found,) = take_turns([Scripted("fast", [], set(range(16)))], 3.0)[0].values()
    everything = [statistics.median(times) / 1e3 for times in found.times_us]
    assert statistics.median(everything) > SPEEDS_MS["slow"] > found.p50_ms
    assert found.noise == pytest.approx(2 / 3)


def test_the_tail_is_that_of_all_rounds_the_disturbed_ones_too():
    rounds = Rounds(times_us=[[1000.0] * 98 + [2000.0, 3000.0], [5000.0] * 4])
    assert rounds.quantile_ms(0.5) == 1.0
    assert rounds.quantile_ms(0.99) == 5.0
    assert len(rounds.all_us()) == 104


def test_each_runs_once_in_each_round_in_an_order_that_changes_and_repeats():
    def run():
        calls = []
        told = []
        take_turns([Scripted("fast", calls), Scripted("slow", calls)], 2.0, done=told.append)
        assert told == calls
        return [tuple(calls[n : n + 2]) for n in range(0, len(calls), 2)]

    rounds = run()
    assert len(rounds) == rounds_in(2.0) == 20
    assert set(rounds) == {("fast", "slow"), ("slow", "fast")}
    assert run() == rounds


def test_one_that_dies_leaves_its_reason_and_the_rest_runs_on():
    calls = []
    rounds, errors = take_turns([Scripted("fast", calls, dies_at=1), Scripted("slow", calls)], 1.0)
    assert errors == {"fast": "variant 'fast': its process died (signal 9)"}
    assert list(rounds) == ["slow"]
    assert calls.count("fast") == 2
    assert len(rounds["slow"].times_us) == rounds_in(1.0)


def test_even_a_moment_has_rounds_to_choose_from():
    assert rounds_in(0.0) == 4
