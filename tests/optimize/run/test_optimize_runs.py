"""Which requests a run refuses at once, and the folders that it leaves to later runs."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from edgekit.core.errors import ModelError, UsageError
from edgekit.core.spec import Pre
from edgekit_optimize.metrics.table import Observed
from edgekit_optimize.run import search as searching
from edgekit_optimize.run.flags import check_numbers
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.request import Description, Remote, Request, Shrinking
from edgekit_optimize.run.run_folder import run_folder

PLAIN = Request(model="m.onnx", data="d", out="o")
NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 0}, "--threads: want 1 to 8, got 0"),
        ({"threads": 1000}, "--threads"),
        ({"seconds": 0.0}, "--seconds"),
        ({"seconds": NAN}, "--seconds"),
        ({"samples": 0}, "--samples"),
        ({"calibration_samples": 0}, "--calibration-samples"),
        ({"seed": -1}, "--seed"),
        ({"max_drop": NAN}, "--max-drop"),
        ({"max_drop": 1.0}, "0.01 is one point"),
        ({"budget_ms": -1.0}, "--budget-ms"),
        ({"budget_mb": NAN}, "--budget-mb"),
        ({"shrinking": Shrinking(epochs=0)}, "--epochs"),
        ({"description": Description(pre=Pre(std=(1.0, 0.0, 1.0)))}, "--std.*got 1,0,1"),
        ({"description": Description(pre=Pre(mean=(NAN,)))}, "--mean"),
        ({"description": Description(pre=Pre(crop_ratio=2.0))}, "--crop"),
        ({"seconds": 0.05, "remote": Remote(device="cam")}, "--seconds"),
    ],
)
def test_a_number_out_of_range_is_refused_at_once(changes, message):
    with pytest.raises(UsageError, match=message):
        check_numbers(msgspec.structs.replace(PLAIN, **changes), 2)


def test_numbers_in_range_pass():
    check_numbers(PLAIN, 1)
    check_numbers(msgspec.structs.replace(PLAIN, max_drop=-0.5, threads=12, seconds=0.05), 12)
    check_numbers(msgspec.structs.replace(PLAIN, threads=32, remote=Remote(device="cam")), 2)


def test_all_wrong_numbers_are_reported_together():
    with pytest.raises(UsageError) as caught:
        check_numbers(msgspec.structs.replace(PLAIN, samples=0, seed=-1), 2)
    assert "--samples" in caught.value.message
    assert "--seed" in caught.value.reasons[0]


def test_a_run_removes_its_folder_and_those_of_killed_runs(tmp_path):
    (tmp_path / "run-of-a-killed-one" / "bench").mkdir(parents=True)
    (tmp_path / "run-of-a-killed-one" / ".lock").touch()
    (tmp_path / "run-hardly-begun").mkdir()
    (tmp_path / "make" / "entry").mkdir(parents=True)
    with run_folder(tmp_path) as one, run_folder(tmp_path) as other:  # two at once
        assert one != other
        assert one.is_dir()
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "make", one.name, other.name}
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "make"}


def _search(answer, count=4):
    bench = SimpleNamespace(evaluate=lambda *_args, **_more: {"float": answer})
    names = tuple(f"picture {n}" for n in range(count))
    data = SimpleNamespace(
        samples="s", key="k", sizes=None, dataset=SimpleNamespace(names=names, in_order=False)
    )
    return searching.Search(bench, None, Progress(), data, {}, 0.01)


def test_a_float_model_that_cannot_be_run_ends_the_search():
    with pytest.raises(ModelError, match="cannot be run: its process died") as caught:
        _search("its process died (signal 9)").evaluate([SimpleNamespace(id="float")])
    assert "memory" in caught.value.hint


def test_a_float_model_whose_output_is_nan_is_refused_with_a_sample(tmp_path):
    scores = np.zeros((4, 10), np.float32)
    scores[2, 5] = np.nan
    np.savez(tmp_path / "outputs.npz", scores=scores)
    with pytest.raises(ModelError, match="1 of 4 samples, 'picture 2' among them") as caught:
        _search(tmp_path / "outputs.npz").evaluate([SimpleNamespace(id="float")])
    assert "--mean" in caught.value.hint


def test_infinite_scores_are_accepted():
    searching._require_no_nan(Observed({"mask": np.full((2, 3), -np.inf)}, None), ("a", "b"))
