"""Data of a model with state: recordings keep their order, and each goes to one side where it can."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import Pre, TensorSpec
from edgekit.pipeline.pre import WindowPre
from edgekit_optimize.data.dataset import read_split
from edgekit_optimize.data.order import divide, recordings_of, starts_of, thinned, with_context

WINDOW = TensorSpec(name="window", datatype="FP32", shape=(1, 4))


def recorded(path, lengths, **more):
    """Write windows that say where they stand: recording * 1000 + place in it."""
    marks = np.repeat(np.arange(len(lengths)), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    windows = (marks * 1000 + places)[:, None] + np.array([0, 0.25, 0.5, 0.75])
    np.savez(path, window=windows.astype(np.float32), recording=marks, **more)
    return path


def read(path, **options):
    return read_split(str(path), (WINDOW,), **{"prepare": None, "in_order": True} | options)


def places(dataset):
    return dataset.inputs["window"][:, 0].astype(int).tolist()


def recordings(dataset):
    return {place // 1000 for place in places(dataset)}


def test_recordings_go_whole_to_one_side_and_keep_their_order(tmp_path):
    split = read(recorded(tmp_path / "d.npz", [20] * 12), calibration=30, evaluation=80)
    judged = places(split.evaluation)
    assert len(judged) == 80
    assert not recordings(split.calibration) & recordings(split.evaluation)
    assert split.evaluation.in_order
    assert split.evaluation.starts == (0, 20, 40, 60)
    for start in split.evaluation.starts:
        assert judged[start : start + 20] == [judged[start] + n for n in range(20)]
    assert not split.warnings[1:], "only that few samples evaluate"


def test_calibration_is_taken_from_a_longer_stretch_that_the_state_goes_through(tmp_path):
    split = read(recorded(tmp_path / "d.npz", [20] * 12), calibration=30, evaluation=80)
    assert len(split.calibration) == 120
    assert len(split.chosen) == split.facts.calibration == 30
    assert split.chosen[0] == 0
    assert split.chosen[-1] == 119


def test_one_recording_is_cut_in_two(tmp_path):
    split = read(recorded(tmp_path / "d.npz", [60]))
    assert places(split.calibration) == list(range(15))
    assert places(split.evaluation) == list(range(15, 60))
    assert split.evaluation.starts == (0,)


def test_without_recordings_all_samples_are_one_recording_with_a_warning(tmp_path):
    np.savez(tmp_path / "d.npz", window=np.random.default_rng(0).normal(size=(60, 4)))
    split = read(tmp_path / "d.npz")
    assert split.evaluation.starts == (0,)
    assert any("no recordings are given" in warning for warning in split.warnings)


def test_another_seed_takes_other_recordings(tmp_path):
    path = recorded(tmp_path / "d.npz", [20] * 12)
    found = {tuple(sorted(recordings(read(path, evaluation=60, seed=n).evaluation))) for n in range(4)}
    assert len(found) > 1
    assert places(read(path, seed=3).evaluation) == places(read(path, seed=3).evaluation)


def test_silence_in_both_sets_calibrates_with_neither_gap_nor_overlap(tmp_path):
    """Windows without a sound are all the same: the state goes through them, they do not calibrate."""
    path = recorded(tmp_path / "d.npz", [20] * 6)
    with np.load(path) as archive:
        windows, marks = archive["window"].copy(), archive["recording"]
    windows[::4] = 0
    np.savez(path, window=windows, recording=marks)
    split = read(path, calibration=20, evaluation=40)
    assert (np.asarray(places(split.calibration)) == 0).sum() == len(split.calibration) // 4
    assert 0 not in [places(split.calibration)[n] for n in split.chosen]
    assert split.facts.dropped_overlap == len(split.calibration) // 4


def test_the_same_recording_twice_is_refused(tmp_path):
    windows = np.random.default_rng(0).normal(size=(30, 4))
    np.savez(tmp_path / "d.npz", window=np.tile(windows, (2, 1)), recording=np.repeat([1, 2], 30))
    with pytest.raises(ConfigError, match="of them are also in the evaluation set"):
        read(tmp_path / "d.npz", calibration=15, evaluation=30)


def test_recordings_that_come_back_are_refused(tmp_path):
    path = recorded(tmp_path / "d.npz", [20, 20])
    with np.load(path) as archive:
        np.savez(path, window=archive["window"], recording=np.tile([4, 5], 20))
    with pytest.raises(ConfigError, match="recording 4 has samples from index 0 and again from index 2"):
        read(path)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (np.zeros(7), r"'recording': want 60 recordings, one per sample, got shape \[7\]"),
        (np.full(60, 0.5), "'recording': want integers or names, got float64"),
        (np.full(60, np.inf), "'recording': want integers or names, got float64"),
    ],
)
def test_recordings_that_are_no_numbers_are_refused(tmp_path, marks, message):
    np.savez(tmp_path / "d.npz", window=np.random.default_rng(0).normal(size=(60, 4)), recording=marks)
    with pytest.raises(TensorError, match=message):
        read(tmp_path / "d.npz")


def test_calibration_from_elsewhere_keeps_its_order_too(tmp_path):
    here, there = recorded(tmp_path / "a.npz", [30, 30]), tmp_path / "b.npz"
    with np.load(recorded(there, [15, 15])) as archive:
        np.savez(there, window=-archive["window"] - 1, recording=np.array(["x"] * 15 + ["y"] * 15))
    split = read(here, calibration_source=str(there), calibration=10, evaluation=60)
    assert (len(split.calibration), len(split.chosen), len(split.evaluation)) == (30, 10, 60)
    assert split.calibration.starts == (0, 15)


@pytest.fixture
def module(tmp_path, monkeypatch):
    def write(body):
        (tmp_path / "orderdata.py").write_text(f"import numpy as np\nimport itertools\n{body}\n")
        monkeypatch.chdir(tmp_path)
        sys.modules.pop("orderdata", None)
        return "orderdata:samples"

    yield write
    sys.modules.pop("orderdata", None)


def test_a_function_names_recordings_beside_the_inputs(module):
    body = """
def samples():
    for n in itertools.count():
        yield {"window": n + np.arange(4) / 4, "recording": f"take {n // 10}"}
"""
    split = read(module(body), calibration=10, evaluation=40)
    assert split.evaluation.starts == (0, 10, 20, 30)
    assert (len(split.calibration), len(split.evaluation)) == (40, 40)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("{'window': np.ones(4) * n} | ({'recording': 1} if n < 9 else {})", ConfigError, "9 of 40 samples"),
        ("{'window': np.ones(4) * n, 'recording': 1.5}", TensorError, "an integer or a name, got 1.5"),
        ("{'window': np.ones(4) * n, 'recording': [1, 2]}", TensorError, "an integer or a name"),
    ],
)
def test_a_function_whose_recordings_make_no_sense_is_an_error(module, given, error, message):
    with pytest.raises(error, match=message):
        read(module(f"def samples():\n    return ({given} for n in range(40))"))


# --- the parts


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


@settings(max_examples=60)
@given(LENGTHS, st.integers(0, 40), st.integers(0, 40))
def test_no_place_goes_to_both_sides_and_none_is_out_of_order(lengths, pool, judged):
    ends = list(itertools.accumulate(lengths))
    found = divide([range(end - n, end) for n, end in zip(lengths, ends, strict=True)], pool, judged)
    both = [*found.pool, *found.judged]
    assert len(set(both)) == len(both)
    assert both == sorted(both)
    assert len(found.pool) <= pool
    assert len(found.judged) <= judged
    if sum(lengths) >= pool + judged:
        assert len(found.judged) == judged
        assert len(found.pool) * 2 >= pool


@settings(max_examples=60)
@given(LENGTHS)
def test_a_state_begins_anew_where_a_recording_does(lengths):
    marks = [n for n, length in enumerate(lengths) for _ in range(length)]
    found = recordings_of(marks, len(marks), "d")
    assert [len(one) for one in found] == lengths
    starts = starts_of(range(len(marks)), found)
    assert starts == tuple(int(n) for n in np.cumsum([0, *lengths[:-1]]))
    assert starts_of((3, 4, 9, 10), [range(20)]) == (0, 2), "and after a gap"


def test_what_is_thinned_is_spread_evenly_over_what_is_left():
    assert thinned(10, 4, frozenset()) == (0, 3, 6, 9)
    assert thinned(6, 9, frozenset({2})) == (0, 1, 3, 4, 5)
    assert thinned(6, 0, frozenset()) == ()


@pytest.mark.parametrize("context", [2, 4, 9])
def test_contexts_are_those_that_a_device_keeps(context):
    windows = np.random.default_rng(0).normal(size=(7, 4, 2)).astype(np.float32)
    spec = TensorSpec(name="w", datatype="FP32", shape=(1, context + 4, 2))
    device = WindowPre(Pre(window=4, hop=4, context=context), spec, "")
    wanted = []
    for n, window in enumerate(windows):
        if n in (0, 3):
            device.reset()
        wanted.append(device.normalize(window))
    np.testing.assert_array_equal(with_context(windows, (0, 3), 4, context), np.stack(wanted))
