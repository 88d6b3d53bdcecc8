"""Integers: how ranges are found, islands of float, and meanings that kernels prescribe."""

import numpy as np
import pytest

from edgekit.core.errors import ModelError, TensorError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.quantize import Affine, quantize, simulate, with_borders
from edgekit_optimize.graph.ranges import Ranges, calibrate, observe
from edgekit_optimize.graph.tflite import write_tflite
from edgekit_optimize.graph.tflite_run import EveryTensor
from edgekit_optimize.graph.tflite_schema import unpack

from .nets import conv, dense, every_kind, run_onnx, run_tflite


def inputs(network, count=12):
    rng = np.random.default_rng(3)
    return [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in network.inputs.items()}
        for _ in range(count)
    ]


def with_outlier(network, count=12):
    samples = inputs(network, count)
    for sample in samples[:1]:
        sample["x"][0, 0, 0, 0] = 200.0
    return samples


def chain():
    rng = np.random.default_rng(1)
    layers = (
        conv("a", "x", rng.normal(0, 0.4, (6, 3, 3, 3)), activation="relu"),
        conv("b", "a", rng.normal(0, 0.4, (6, 3, 3, 6)), activation="relu"),
        Layer("add", ("a", "b"), "c"),
        Layer("mean", ("c",), "d"),
        dense("y", "d", rng.normal(0, 0.4, (4, 6))),
    )
    return Network({"x": (1, 8, 8, 3)}, layers, ("y",))


@pytest.mark.parametrize(
    "keep", [("b",), ("a",), ("y",), ("a", "c"), ("c", "d", "y"), ("a", "b", "c", "d", "y")]
)
def test_layers_left_in_float_compute_on_reals_and_the_rest_on_integers(keep):
    network, samples = chain(), inputs(chain())
    meaning = quantize(network, observe(network, samples), keep_float=keep)
    assert meaning.floats == set(keep)
    assert not meaning.floats & meaning.activations.keys()
    wanted = simulate(network, meaning, samples[0])["y"]
    for found in (
        run_tflite(write_tflite(network, meaning), samples[0]),
        run_onnx(write_onnx(network, meaning), samples[0]),
    ):
        np.testing.assert_allclose(found["y"], wanted, atol=0.06)
    if len(keep) == 5:
        np.testing.assert_allclose(wanted, network.run(samples[0])["y"], atol=1e-5)


def test_an_island_has_one_border_on_each_side_and_no_more():
    network = chain()
    meaning = quantize(network, observe(network, inputs(network)), keep_float=["b"])
    bordered, _ = with_borders(network, meaning)
    assert [layer.kind for layer in bordered.layers] == [
        "conv",
        "dequantize",
        "conv",
        "quantize",
        "add",
        "mean",
        "dense",
    ]
    onnx = write_onnx(network, meaning)
    assert b"b/w/q" not in onnx
    assert b"a/w/q" in onnx


def test_a_layer_left_in_float_is_told_by_any_name_it_swallowed():
    layer = chain().layers[0]
    layers = (Layer(**{**vars(layer), "also": ("before_relu",)}), *chain().layers[1:])
    network = Network(chain().inputs, layers, ("y",))
    assert quantize(network, observe(network, inputs(network)), keep_float=["before_relu"]).floats == {"a"}
    with pytest.raises(ModelError, match="no such layer"):
        quantize(network, observe(network, inputs(network)), keep_float=["nowhere"])


def test_a_layer_without_an_integer_kernel_stays_in_float_by_itself():
    layers = (conv("a", "x", np.ones((2, 1, 1, 3))), Layer("exp", ("a",), "y"))
    network = Network({"x": (1, 4, 4, 3)}, layers, ("y",))
    samples = inputs(network)
    meaning = quantize(network, observe(network, samples))
    assert meaning.floats == {"y"}
    found = run_tflite(write_tflite(network, meaning), samples[0])["y"]
    np.testing.assert_allclose(found, network.run(samples[0])["y"], rtol=0.1)


def test_a_meaning_that_a_kernel_prescribes_is_not_forced_upon_what_is_joined_to_it():
    layers = (
        conv("boxes", "x", np.full((2, 1, 1, 3), 4.0)),
        conv("logits", "x", np.full((2, 1, 1, 3), 0.5)),
        Layer("sigmoid", ("logits",), "shares"),
        Layer("concat", ("boxes", "shares"), "y", axis=3),
    )
    network = Network({"x": (1, 4, 4, 3)}, layers, ("y",))
    samples = inputs(network)
    meaning = quantize(network, observe(network, samples))
    assert meaning.activations["shares"] == Affine(1 / 256, -128)
    assert meaning.activations["shares/again"] == meaning.activations["boxes"]
    wanted = network.run(samples[0])["y"]
    for found in (
        run_tflite(write_tflite(network, meaning), samples[0]),
        run_onnx(write_onnx(network, meaning), samples[0]),
    ):
        np.testing.assert_allclose(found["y"], wanted, atol=meaning.activations["y"].scale * 1.6)


def test_constants_of_an_operation_are_integers_where_it_is_and_reals_where_it_is_not():
    layers = (
        Layer("constant", (), "k", weights=np.linspace(-1, 1, 3, dtype=np.float32).reshape(1, 1, 1, 3)),
        Layer("mul", ("x", "k"), "a"),
        Layer("add", ("a", "k"), "y"),
    )
    network = Network({"x": (1, 2, 2, 3)}, layers, ("y",))
    samples = inputs(network)
    for keep in ((), ("a",), ("y",), ("a", "y")):
        meaning = quantize(network, observe(network, samples), keep_float=keep)
        wanted = network.run(samples[0])["y"]
        for found in (
            run_tflite(write_tflite(network, meaning), samples[0]),
            run_onnx(write_onnx(network, meaning), samples[0]),
        ):
            np.testing.assert_allclose(found["y"], wanted, atol=0.06)


def test_one_scale_for_all_weights_is_coarser_and_says_so_in_the_file():
    network = chain()
    network.layers[1].weights[0] *= 50
    ranges = observe(network, inputs(network))
    fine, coarse = quantize(network, ranges), quantize(network, ranges, per_channel=False)
    layer = network.layers[1]
    assert len(set(fine.weights(layer)[1])) == 6
    assert len(set(coarse.weights(layer)[1])) == 1
    tensors = unpack(write_tflite(network, coarse)).subgraphs[0].tensors
    scales = {tensor.name: tensor.quantization.scale for tensor in tensors if tensor.quantization}
    assert len(scales[b"b/weights"]) == 1
    mixed = quantize(network, ranges, dense_per_channel=False)
    assert mixed.has_channels(layer)
    assert not mixed.has_channels(network.layers[-1])


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_lone_outlier_widens_the_range_by_minmax_only(method):
    network = Network({"x": (1, 60, 60, 3)}, (conv("y", "x", np.ones((2, 1, 1, 3))),), ("y",))
    samples = with_outlier(network)
    whole = calibrate(network, lambda: samples)
    narrow = calibrate(network, lambda: samples, method)
    assert whole.high["x"] == 200.0
    assert 3.0 < narrow.high["x"] < 30.0
    assert -6.0 < narrow.low["x"] < -2.5


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_a_range_without_outliers_is_kept_almost_whole(method):
    network = Network({"x": (1, 40, 40, 3)}, (Layer("relu6", ("x",), "y"),), ("y",))
    rng = np.random.default_rng(0)
    samples = [{"x": rng.uniform(-1, 8, (1, 40, 40, 3)).astype(np.float32)} for _ in range(4)]
    narrow = calibrate(network, lambda: samples, method)
    assert narrow.high["y"] > 5.9
    assert narrow.low["y"] == 0.0
    assert narrow.high["x"] > 7.9


def test_values_that_are_not_finite_are_refused_by_the_tensor_they_are_in():
    network = chain()
    network.layers[1].weights[0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="'b' has values that are not finite"):
        observe(network, inputs(network, 1))


def test_litert_sees_the_same_ranges_as_numpy():
    network, samples = every_kind(), inputs(every_kind(), 3)
    slow, fast = observe(network, samples), observe(network, samples, run=EveryTensor(network))
    assert slow.low.keys() == fast.low.keys()
    for name in slow.low:
        assert fast.high[name] == pytest.approx(slow.high[name], abs=1e-3)
        assert fast.low[name] == pytest.approx(slow.low[name], abs=1e-3)
    with pytest.raises(TensorError, match="does not match the network's inputs"):
        EveryTensor(network)({"x": np.zeros((1, 2, 2, 3), np.float32)})


def test_a_range_always_holds_zero():
    ranges = Ranges()
    ranges.widen("x", 2.0, 3.0)
    assert (ranges.low["x"], ranges.high["x"]) == (0.0, 3.0)


def test_half_weights_halve_the_file_and_stay_near():
    network, feeds = every_kind(), inputs(every_kind(), 1)[0]
    rng = np.random.default_rng(0)
    network.layers[11].weights[...] = rng.normal(size=network.layers[11].weights.shape)
    whole, half = write_tflite(network), write_tflite(network, half_weights=True)
    found, wanted = run_tflite(half, feeds), run_tflite(whole, feeds)
    for name in network.outputs:
        np.testing.assert_allclose(found[name], wanted[name], atol=0.02)
    network.layers[0].weights[0, 0, 0, 0] = 1e6  # too large for 16 bits: stays as it is
    assert np.isfinite(run_tflite(write_tflite(network, half_weights=True), feeds)["boxes"]).all()
