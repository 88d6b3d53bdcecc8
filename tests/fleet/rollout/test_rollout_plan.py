import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.errors import UsageError
from edgekit_fleet.rollout.plan import assign, make_spec, named_devices, split_waves, wave_problem

counts = st.integers(1, 30).map(str)
shares = st.integers(1, 100).map("{}%".format)
devices = st.lists(
    st.from_regex(r"[a-z]{1,6}-[0-9]{1,3}", fullmatch=True), unique=True, min_size=1, max_size=40
)


@settings(deadline=None)
@given(st.lists(st.one_of(counts, shares), min_size=1, max_size=6), devices, st.data())
def test_no_wave_takes_more_devices_than_it_says(waves, names, data):
    online = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    found = assign(waves, list(zip(names, online, strict=True)), "seed")
    largest = 0
    for number, wave in enumerate(waves):
        size = -(-len(names) * int(wave[:-1]) // 100) if wave.endswith("%") else int(wave)
        largest = max(largest, size)
        assert sum(one <= number for one in found.values()) <= min(largest, len(names))
    assert set(found) <= set(names)


@settings(deadline=None)
@given(devices)
def test_a_last_wave_of_all_takes_all(names):
    assert set(assign(["1", "100%"], [(n, True) for n in names], "s")) == set(names)


@settings(deadline=None)
@given(devices, st.data())
def test_named_devices_are_in_their_wave_and_no_other(names, data):
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    found = assign(["1", "+" + "+".join(chosen), "100%"], [(n, True) for n in names], "s")
    assert all(found[one] <= 1 for one in chosen)


def test_the_canary_differs_between_rollouts_but_not_within_one():
    pool = [(f"cam-{i}", True) for i in range(20)]
    canaries = {next(iter(assign(["1"], pool, f"r-{seed}"))) for seed in range(30)}
    assert len(canaries) > 5
    assert assign(["1"], pool, "r") == assign(["1"], list(reversed(pool)), "r")


def test_the_canary_is_online_where_one_is():
    pool = [(f"cam-{i}", i == 7) for i in range(20)]
    assert assign(["1", "100%"], pool, "r")["cam-7"] == 0


def test_names_of_digits_are_told_from_numbers_by_a_plus():
    assert named_devices(split_waves("7, +7, cam-1+cam-2, 30%")) == ("7", "cam-1", "cam-2")


@pytest.mark.parametrize("wave", ["", "0", "0%", "101%", "a b", "a++b", "1.5", "ü", "25 %"])
def test_what_is_no_wave_is_told(wave):
    assert wave_problem(wave)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("waves", []),
        ("waves", ["1"] * 51),
        ("waves", ["0"]),
        ("soak_s", -1),
        ("success_ratio", 0),
        ("success_ratio", 1.1),
        ("max_failures", -1),
        ("wave_timeout_s", 0),
        ("devices", ["../x"]),
        ("guards", {"error_ratio": -1}),
        ("guards", {"p99_ratio": -1}),
        ("guards", {"colour": 1}),
        ("guards", 5),
        ("model", "../x"),
        ("version", "1"),
        ("colour", "red"),
    ],
)
def test_a_field_out_of_range_is_refused(field, value):
    with pytest.raises(UsageError):
        make_spec({"model": "m", "version": "1.0.0", field: value})


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(UsageError) as error:
        make_spec({"model": "M!", "version": "one", "soak_s": -5})
    assert len(error.value.reasons) == 3


def test_a_guard_that_is_given_leaves_the_others_as_they_are():
    guards = make_spec({"model": "m", "version": "1.0.0", "guards": {"p99_ratio": 1.5}}).guards
    assert (guards.p99_ratio, guards.error_ratio) == (1.5, 0.02)
