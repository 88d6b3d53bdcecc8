"""One network, three file formats, the same answers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.openvino_ir import write_openvino
from edgekit_optimize.graph.quantize import affine, observe, quantize
from edgekit_optimize.graph.tflite import read_tflite, write_tflite

from .nets import conv, every_kind, networks, run_onnx, run_openvino, run_tflite


def sample(network, seed=3):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in network.inputs.items()}


def assert_same(found, wanted, network, atol):
    for name in network.outputs:
        np.testing.assert_allclose(found[name], wanted[name], atol=atol, err_msg=name)


def test_the_three_formats_compute_what_numpy_does(tmp_path):
    network = every_kind()
    feeds = sample(network)
    wanted = network.run(feeds)
    assert_same(run_tflite(write_tflite(network), feeds), wanted, network, 1e-4)
    assert_same(run_onnx(write_onnx(network), feeds), wanted, network, 1e-4)
    (tmp_path / "net.onnx").write_bytes(write_onnx(network))
    xml, weights = write_openvino(tmp_path / "net.onnx", tmp_path / "net.xml")
    assert weights.stat().st_size > 0
    assert_same(run_openvino(xml, feeds), wanted, network, 1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_any_small_network_means_the_same_in_tflite_and_onnx(network):
    feeds = sample(network)
    wanted = network.run(feeds)
    assert_same(run_tflite(write_tflite(network), feeds), wanted, network, 1e-4)
    assert_same(run_onnx(write_onnx(network), feeds), wanted, network, 1e-4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_a_tflite_file_reads_back_as_the_network_that_was_written(network):
    feeds = sample(network)
    again = read_tflite(write_tflite(network))
    assert again.shapes().keys() <= network.shapes().keys()
    assert_same(again.run(feeds), network.run(feeds), network, 1e-6)


def test_half_weights_are_lossless_where_the_weights_have_16_bits():
    network = every_kind()
    for layer in network.layers:
        if layer.weights is not None:
            layer.weights[...] = layer.weights.astype(np.float16)
    feeds = sample(network)
    small, large = write_onnx(network, half_weights=True), write_onnx(network)
    assert_same(run_onnx(small, feeds), run_onnx(large, feeds), network, 0)


def test_int8_files_are_small_and_near_the_float_network_on_every_runtime(tmp_path):
    network = every_kind()
    samples = [sample(network, seed) for seed in range(20)]
    meaning = quantize(network, observe(network, samples))
    feeds, atol = samples[0], {"boxes": 0.35, "scores": 0.02}
    wanted = network.run(feeds)
    tflite, onnx = write_tflite(network, meaning), write_onnx(network, meaning)
    (tmp_path / "int8.onnx").write_bytes(onnx)
    for found in (
        run_tflite(tflite, feeds),
        run_onnx(onnx, feeds),
        run_openvino(tmp_path / "int8.onnx", feeds),
    ):
        for name in network.outputs:
            np.testing.assert_allclose(found[name], wanted[name], atol=atol[name], err_msg=name)


def test_tensors_that_a_concatenation_joins_share_one_scale():
    layers = (
        conv("small", "x", np.full((2, 1, 1, 3), 0.01)),
        conv("large", "x", np.full((2, 1, 1, 3), 9.0)),
        Layer("concat", ("small", "large"), "both", axis=3),
        Layer("softmax", ("both",), "shares"),
    )
    network = Network({"x": (1, 4, 4, 3)}, layers, ("shares",))
    meaning = quantize(network, observe(network, [sample(network)])).activations
    assert meaning["small"] == meaning["large"] == meaning["both"]
    assert meaning["shares"] == affine(0.0, 255 / 256)


def test_a_channel_with_tiny_weights_and_a_large_bias_does_not_overflow():
    network = every_kind()
    layer = network.layers[0]
    layer.weights[0] = 1e-9
    layer.bias[0] = 5.0
    meaning = quantize(network, observe(network, [sample(network)]))
    _, scale, sums = meaning.weights(layer)
    source = meaning.activations["x"].scale
    np.testing.assert_allclose(sums * scale * source, layer.bias, atol=1e-2)


def test_the_same_network_gives_the_same_bytes():
    assert write_tflite(every_kind()) == write_tflite(every_kind())
    assert write_onnx(every_kind()) == write_onnx(every_kind())


@pytest.mark.parametrize("data", [b"", b"TFL3", b"PK\x03\x04 not a model", b"\x00" * 100])
def test_what_is_not_tflite_is_refused(data):
    with pytest.raises(ModelError, match="TFL3"):
        read_tflite(data)


def test_a_quantised_tflite_file_is_refused_as_a_float_network():
    network = every_kind()
    meaning = quantize(network, observe(network, [sample(network)]))
    with pytest.raises(ModelError, match="quantised"):
        read_tflite(write_tflite(network, meaning))
