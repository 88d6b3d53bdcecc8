"""What ``zoo:NAME`` brings to a search: its float model, and two sets of samples that share none."""

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.core.errors import ConfigError, UsageError
from edgekit_optimize.cache import Cache
from edgekit_optimize.data.dataset import Dataset
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.zoo_model import ZooModel, apart, zoo_model
from edgekit_optimize.zoo.build import open_kit

LABELS = ("north", "east", "south", "west")


@pytest.fixture
def tiny(models):
    return ZooModel(open_kit("tiny", models=models))


def ask(tiny, tmp_path, **told):
    request = Request(model="zoo:tiny", data=told.pop("data", ""), out=tmp_path / "out", **told)
    return tiny.split(request, tiny.kit.recipe.inputs, lambda pixels: pixels, LABELS)


def arrays(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), np.uint8)


def test_the_float_model_is_built_once_and_has_one_float_variant(tiny, tmp_path):
    cache = Cache(tmp_path / "cache")
    bundle = tiny.bundle(cache)
    assert [(v.id, v.precision) for v in bundle.manifest.variants] == [("onnxruntime-fp32", "fp32")]
    assert tiny.bundle(cache).digest == bundle.digest
    assert len(list((tmp_path / "cache" / "zoo").iterdir())) == 1


def test_the_hooks_give_labelled_samples_and_what_both_have_is_left_out_of_calibration(tiny, tmp_path):
    split = ask(tiny, tmp_path)
    assert split.evaluation.inputs["image"].shape == (40, 12, 12, 3)
    assert split.evaluation.inputs["image"].dtype == np.uint8
    assert split.evaluation.labels.tolist() == [n % 4 for n in range(40)]
    assert (len(split.calibration), split.facts.dropped_overlap, split.facts.labelled) == (30, 2, True)
    assert "2 samples were left out of calibration" in split.warnings[0]


def test_fewer_samples_are_evenly_spaced(tiny, tmp_path):
    split = ask(tiny, tmp_path, samples=4, calibration_samples=3)
    assert split.evaluation.names == tuple(f"evaluation[{n}]" for n in (0, 13, 26, 39))
    assert split.evaluation.labels.tolist() == [0, 1, 2, 3]


def test_the_users_data_evaluate_and_the_recipe_still_calibrates(tiny, tmp_path):
    np.savez(tmp_path / "mine.npz", image=arrays(20), y=np.arange(20) % 4)
    split = ask(tiny, tmp_path, data=str(tmp_path / "mine.npz"))
    assert (len(split.evaluation), split.facts.labelled, len(split.calibration)) == (20, True, 32)
    assert split.calibration.names[0] == "calibration[0]"


def test_data_that_contain_the_recipes_samples_give_a_warning(tiny, tmp_path):
    """By content: the file has another name."""
    own = ask(tiny, tmp_path).calibration.inputs["image"]
    np.savez(tmp_path / "mine.npz", image=np.concatenate([own[:5], arrays(20)]))
    split = ask(tiny, tmp_path, data=str(tmp_path / "mine.npz"))
    assert split.facts.dropped_overlap == 5


def test_the_users_calibration_takes_the_place_of_the_recipes(tiny, tmp_path):
    np.savez(tmp_path / "mine.npz", image=arrays(20))
    np.savez(tmp_path / "tune.npz", image=arrays(12, seed=1))
    split = ask(tiny, tmp_path, data=str(tmp_path / "mine.npz"), calibration=str(tmp_path / "tune.npz"))
    assert (len(split.evaluation), len(split.calibration)) == (20, 12)


def test_calibration_data_alone_are_a_usage_error(tiny, tmp_path):
    with pytest.raises(UsageError, match="--calibration without --data"):
        ask(tiny, tmp_path, calibration="x.npz")


def test_a_recipe_without_evaluation_samples_asks_for_data(models, tiny, tmp_path):
    build = models / "tiny" / "build.py"
    build.write_text(build.read_text().replace("def evaluation", "def no_evaluation"))
    with pytest.raises(ConfigError, match=r"no evaluation\(\)"):
        ask(tiny, tmp_path)


def test_equal_sets_leave_nothing_to_calibrate_with():
    data = Dataset(names=("a", "b"), inputs={"image": arrays(2)})
    with pytest.raises(ConfigError, match="every calibration sample"):
        apart(data, data, "zoo:tiny")


def test_other_names_are_no_models_of_the_zoo():
    assert zoo_model("net.onnx") is None
    with pytest.raises(UsageError, match="no model 'nothing'"):
        zoo_model("zoo:nothing")


def test_only_a_model_of_the_zoo_may_come_without_data(tmp_path, capsys):
    assert main(["optimize", "net.onnx", "-o", str(tmp_path / "b")]) == UsageError.exit_code
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["imu-exercise", "ucr-anomaly"])
def test_golden_calibration_and_evaluation_samples_of_a_recipe_are_apart(name, tmp_path):
    """Needs a registry: fetches a few megabytes."""
    kit = open_kit(name, cache=tmp_path)
    seen: set[bytes] = set()
    for hook in ("golden", "calibration", "evaluation"):
        found = kit.hook(hook)(kit)
        feeds = found[0] if isinstance(found, tuple) else found
        own = {b"".join(values.tobytes() for values in one.values()) for one in feeds}
        assert len(own) == len(feeds) >= 3
        assert not own & seen, f"{hook} shares a sample with what came before"
        seen |= own
