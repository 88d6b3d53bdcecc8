"""Several models are served as one: wired by name, checked before they run, and each replaced by itself."""

import concurrent.futures
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx_bundles import make_doubler

from edgekit.core.errors import AcceleratorLostError, BundleError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit.model.ensemble import Ensemble, Step, Tensors, read_ensemble, wire
from edgekit.model.exclusions import Exclusions
from edgekit.model.joined import EnsembleServable, HeldEnsemble


def spec(name, datatype="FP32", shape=(-1, 4)):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


class Model:
    """Adds a number to its one input; waits for a barrier, or fails as it is told."""

    variant, optional_inputs, labels, keeps_state = "v", frozenset(), (), False

    def __init__(self, add, inputs=("x",), meets=None, error=None):
        self.inputs, self.outputs = tuple(map(spec, inputs)), (spec("y"),)
        self.add, self.meets, self.error = add, meets, error

    def infer(self, feeds):
        if self.meets is not None:
            self.meets.wait(60)
        if self.error is not None:
            raise self.error
        return {"y": sum(feeds.values()) + self.add}

    def status(self):
        return {"variant": self.variant, "why": "it is the only one"}


def ensemble(*steps, outputs=("end",)):
    return Ensemble("all", "1.0.0", outputs, tuple(Step(f"{n}.ekb", *maps) for n, maps in enumerate(steps)))


DIAMOND = ensemble(
    ({"x": "in"}, {"y": "a"}),
    ({"x": "a"}, {"y": "left"}),
    ({"x": "a"}, {"y": "right"}),
    ({"x": "left", "z": "right"}, {"y": "end"}),
    outputs=("end", "left"),
)


@pytest.fixture
def joined():
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        yield lambda written, *models: EnsembleServable(
            written, [(f"m{n}", "1.0.0") for n in range(len(models))], models, threads
        )


def test_models_in_a_row_and_side_by_side_run_as_soon_as_their_tensors_are_there(joined):
    both = threading.Barrier(2)  # passed only where the two run at the same time
    whole = joined(
        DIAMOND, Model(1), Model(10, meets=both), Model(100, meets=both), Model(1000, inputs=("x", "z"))
    )
    assert [(row.name, row.shape) for row in whole.inputs] == [("in", (-1, 4))]
    assert [row.name for row in whole.outputs] == ["end", "left"]
    outputs = whole.infer({"in": np.float32([[1, 2, 3, 4]])})
    assert outputs["left"].tolist() == [[12, 13, 14, 15]]
    assert outputs["end"].tolist() == [[1114, 1116, 1118, 1120]]
    batch = whole.infer({"in": np.ones((3, 4), np.float32)})
    assert batch["left"].tolist() == [[12] * 4] * 3
    assert whole.variant == "m0:v+m1:v+m2:v+m3:v"
    assert [row["model"] for row in whole.status()["steps"]] == ["m0", "m1", "m2", "m3"]
    assert whole.steps[3]["input_map"] == {"x": "left", "z": "right"}


def test_a_failure_names_its_step_and_a_lost_accelerator_its_number(joined):
    feeds = {"in": np.ones((1, 4), np.float32)}
    broken = joined(
        DIAMOND, Model(1), Model(1, error=TensorError("no")), Model(1), Model(1, inputs=("x", "z"))
    )
    with pytest.raises(TensorError, match="step m1: no"):
        broken.infer(feeds)
    lost = AcceleratorLostError("unplugged")
    whole = joined(DIAMOND, Model(1), Model(1), Model(1, error=lost), Model(1, inputs=("x", "z")))
    with pytest.raises(AcceleratorLostError):
        whole.infer(feeds)
    assert whole.lost == 2


X, Y = Tensors((spec("x"),), (spec("y"),)), Tensors((spec("x"),), (spec("y", "INT8"),))


@pytest.mark.parametrize(
    ("steps", "models", "message"),
    [
        ([({"q": "a"}, {"y": "end"})], [X], "has no tensor 'q': it has x"),
        ([({}, {"y": "end"}), ({}, {"y": "end"})], [X, X], "two steps make the tensor 'end'"),
        ([({}, {"y": "a"}), ({"x": "a"}, {"y": "end"})], [Y, X], "wants 'x' as FP32.*'a' is INT8"),
        ([({}, {"y": "a"})], [X], "no step makes the output 'end': they make a"),
        (
            [({"x": "end"}, {"y": "a"}), ({"x": "a"}, {"y": "end"})],
            [X, X],
            "wait for each other: 0.ekb, 1.ekb",
        ),
    ],
)
def test_what_does_not_fit_together_is_named_before_it_is_served(steps, models, message):
    with pytest.raises(BundleError, match=message):
        wire(ensemble(*steps), models)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 'a'", "version: want a value"),
        ("model = 'A b'\nversion = '1.0.0'\noutputs = ['y']\n[[step]]\nmodel = 'a'", "want a model's name"),
        (
            "model = 'a'\nversion = '1.0.0'\noutputs = ['y']\n[[step]]\nmodel = 'b.toml'",
            "not another ensemble",
        ),
        ("model = [", "not TOML"),
    ],
)
def test_a_file_that_is_not_an_ensemble_is_refused_as_a_bundle_is(tmp_path, text, message):
    path = tmp_path / "e.toml"
    path.write_text(text)
    with pytest.raises(BundleError) as refused:
        read_ensemble(path)
    assert message.replace("want a value", "") in "\n".join((refused.value.message, *refused.value.reasons))
    assert refused.value.exit_code == 4


DOUBLERS = """
model = "e"
version = "2.0.0"
outputs = ["y", "side"]
[[step]]
model = "double.onnx"
outputs = { y = "a" }
[[step]]
model = "double.onnx"
inputs = { x = "a" }
[[step]]
model = "double.onnx"
outputs = { y = "side" }
"""


def test_real_models_open_as_one_and_what_one_has_lost_is_kept_with_the_rest(tmp_path):
    (tmp_path / "e.toml").write_text(DOUBLERS)
    make_doubler(tmp_path / "double.onnx")
    tried, lost = [], Exclusions()
    lost.add("2-double:openvino", "it crashed", 0.0)
    held = HeldEnsemble(Path(tmp_path / "e.toml"), 1, lost, lambda *told: tried.append(told))
    try:
        outputs = held.servable.infer({"x": np.float32([[1, 2, 3, 4]])})
        assert {name: array.tolist() for name, array in outputs.items()} == {
            "y": [[4, 8, 12, 16]],
            "side": [[2, 4, 6, 8]],
        }
        assert held.status()["excluded"] == {"2-double:openvino": "it crashed"}
        assert tried[-1] == ("", 0)
        assert {name.partition(":")[0] for name, _ in tried[:-1]} == {"1-double", "2-double", "3-double"}
    finally:
        held.close()
