"""From the user's functions to an ONNX file."""

import numpy as np
import onnx
import onnxruntime
import pytest
import shrink_nets
import torch

from edgekit.core.errors import ConfigError, EdgekitError, ModelError, UsageError
from edgekit_optimize.shrink import api

NET, BATCHES, SHAPE = "shrink_nets:net", "shrink_nets:batches", shrink_nets.SHAPE


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images.numpy()])


def accuracy(path):
    images, labels = shrink_nets.samples(9999, 400)
    return float((run_onnx(path, images).argmax(1) == labels.numpy()).mean())


def test_a_pruned_model_is_smaller_as_good_and_its_file_is_the_module(tmp_path):
    reported = []
    shrunk = api.prune(
        NET,
        "shrink_nets:train",
        tmp_path,
        shape=SHAPE,
        ratio=0.6,
        epochs=5,
        seed=1,
        progress=lambda share, text: reported.append(share),
    )
    assert shrunk.multiply_adds <= 0.4 * shrunk.multiply_adds_before
    assert shrunk.parameters < shrunk.parameters_before
    assert shrunk.id == "pruned-60"
    images, _ = shrink_nets.samples(3, 16)
    with torch.no_grad():
        wanted = shrink_nets.SEEN[-1].eval()(images).numpy()
    np.testing.assert_allclose(run_onnx(shrunk.onnx, images), wanted, rtol=1e-3, atol=1e-4)
    assert accuracy(shrunk.onnx) > 0.9
    assert reported == sorted(reported)
    assert reported[-1] == 1.0
    assert shrunk.history[-1][1] < shrunk.history[0][1]
    sizes = [tensor.dims[0] for tensor in onnx.load(shrunk.onnx).graph.initializer if len(tensor.dims) == 4]
    assert all(size % 8 == 0 for size in sizes)


def test_the_same_seed_prunes_to_the_same_file(tmp_path):
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shrunk = api.prune(NET, BATCHES, tmp_path / name, shape=SHAPE, ratio=0.5, epochs=1, seed=1)
        files.append((tmp_path / name / "model.onnx").read_bytes())
        assert shrunk.onnx == str(tmp_path / name / "model.onnx")
    assert files[0] == files[1]


def test_a_student_learns_with_its_teacher_from_data_without_labels(tmp_path):
    shrunk = api.distill(
        NET, "shrink_nets:small", "shrink_nets:unlabelled", tmp_path, shape=SHAPE, epochs=8, seed=1
    )
    assert accuracy(shrunk.onnx) > 0.6
    assert shrunk.multiply_adds < shrunk.multiply_adds_before
    assert shrunk.multiply_adds_before == 16 * 9 * 144 + 32 * 16 * 9 * 36 + 9 * 32 * 4


def test_a_student_alone_learns_as_one_whose_teacher_has_no_weight(tmp_path):
    arguments = {"shape": SHAPE, "epochs": 1, "seed": 1}
    shrunk = api.alone("shrink_nets:small", BATCHES, tmp_path, **arguments)
    taught = api.distill(NET, "shrink_nets:small", BATCHES, tmp_path, weight=0.0, **arguments)
    assert shrunk.history == taught.history
    assert shrunk.parameters == shrunk.parameters_before < taught.parameters_before


def test_weights_trained_with_rounding_are_on_the_integer_grid_in_the_file(tmp_path):
    shrunk = api.qat(NET, BATCHES, tmp_path, shape=SHAPE, epochs=1, seed=1, bits=4)
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(shrunk.onnx).graph.initializer
        if len(tensor.dims) == 4
    ]
    assert len(weights) == 2
    for values in weights:
        steps = values / (np.abs(values).max(axis=(1, 2, 3), keepdims=True) / 7)
        assert np.abs(steps - np.round(steps)).max() < 1e-3
    assert accuracy(shrunk.onnx) > 0.9


@pytest.mark.parametrize(
    ("model", "train", "fields", "error", "said"),
    [
        ("shrink_nets:not_finite", BATCHES, {}, ModelError, "weights of '0.weight' are NaN"),
        ("shrink_nets:squares", BATCHES, {}, EdgekitError, "squares"),
        ("shrink_nets:block", BATCHES, {}, EdgekitError, "block"),
        ("net.pt2", BATCHES, {}, UsageError, "module:function"),
        ("shrink_nets:with_softmax", BATCHES, {}, ConfigError, "its own softmax"),
        (NET, "shrink_nets:wrong", {}, ConfigError, r"\(model, data\)"),
        (NET, "shrink_nets:broken_after_three", {}, ConfigError, "inputs of training step"),
        (NET, BATCHES, {"ratio": 1.0}, ConfigError, "ratio"),
        (NET, BATCHES, {"ratio": 0.99}, ModelError, "cannot be pruned below"),
        (NET, BATCHES, {"epochs": 0}, ConfigError, "epochs"),
        (NET, BATCHES, {"rate": -1.0}, ConfigError, "rate"),
        (NET, BATCHES, {"shape": (1, 3, 12, 12)}, ModelError, "layer '0'"),
        (NET, BATCHES, {"loss": "shrink_nets:vector"}, ConfigError, "one value"),
    ],
)
def test_invalid_requests_are_refused_before_any_file_is_written(tmp_path, model, train, fields, error, said):
    arguments = {"shape": SHAPE, "ratio": 0.5, "epochs": 1, "seed": 0, "weight": 0.5, **fields}
    with pytest.raises(error, match=said):
        api.prune(model, train, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_script_module_and_a_student_of_other_outputs_are_refused(tmp_path):
    with pytest.warns(DeprecationWarning, match="jit.script"), pytest.raises(ModelError, match="TorchScript"):
        api.prune("shrink_nets:scripted", BATCHES, tmp_path, shape=SHAPE, ratio=0.5, epochs=1, seed=0)
    with pytest.raises(ConfigError, match="disagree"):
        api.distill(NET, "shrink_nets:other_outputs", BATCHES, tmp_path, shape=SHAPE, epochs=1, seed=0)
