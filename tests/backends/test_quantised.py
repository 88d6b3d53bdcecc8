"""A quantised file keeps its own scale and zero point on every backend, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_nets

from edgekit.backends import open_backend, openvino
from edgekit.backends.file_facts import file_facts
from edgekit.core.errors import ModelLoadError
from edgekit.core.spec import Manifest, Post, Pre, TensorSpec, Variant
from edgekit.pipeline.predictor import Predictor
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.quantize import observe, quantize
from edgekit_optimize.graph.tflite_write import write_tflite

CLASSES, STEP = 3, 1 / 256
RUNTIMES = ["litert", "openvino"]


def network() -> Network:
    """A window of 8 samples of 2 channels, two layers, and the shares of three classes."""
    rng = np.random.default_rng(3)
    dense = [
        Layer(
            "dense",
            (a,),
            b,
            weights=rng.normal(0, 0.6, shape).astype(np.float32),
            bias=np.ones(shape[0], np.float32),
        )
        for a, b, shape in (("flat", "hidden", (12, 16)), ("relu", "logits", (CLASSES, 12)))
    ]
    layers = (
        Layer("reshape", ("window",), "flat", shape=(1, 16)),
        dense[0],
        Layer("relu", ("hidden",), "relu"),
        dense[1],
        Layer("softmax", ("logits",), "scores"),
    )
    return Network({"window": (1, 8, 2)}, layers, ("scores",))


def samples(count: int = 20) -> list[np.ndarray]:
    return [np.random.default_rng(seed).normal(0, 2, (1, 8, 2)).astype(np.float32) for seed in range(count)]


@pytest.fixture(scope="module")
def int8_file(tmp_path_factory):
    net = network()
    meaning = quantize(net, observe(net, [{"window": each} for each in samples()]))
    path = tmp_path_factory.mktemp("int8") / "net.tflite"
    path.write_bytes(write_tflite(net, meaning))
    return path


def manifest() -> Manifest:
    return Manifest(
        format=1,
        model="shares",
        version="1.0.0",
        task="sensor",
        inputs=(TensorSpec(name="window", datatype="FP32", shape=(1, 8, 2)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(1, CLASSES)),),
        pre=Pre(resize="none", window=8, hop=8),
        post=Post(decoder="sensor", score_threshold=0.0),
        variants=(),
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_int8_file_says_its_scale_and_zero_point_on_every_backend(int8_file, runtime):
    backend = open_backend(int8_file, Variant(id="v", backend=runtime, precision="int8"), {"threads": 1})
    scores = backend.outputs[0].quantization
    assert (backend.inputs[0].datatype, backend.outputs[0].datatype) == ("INT8", "INT8")
    assert (scores.scale, scores.zero_point) == (STEP, -128)
    assert 0 < backend.inputs[0].quantization.scale < 1
    backend.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_int8_file_gives_the_scores_of_the_float_network_on_every_backend(int8_file, runtime):
    variant = Variant(id="v", backend=runtime, precision="int8")
    predictor = Predictor(manifest(), variant, open_backend(int8_file, variant, {"threads": 1}))
    for sample in samples():
        wanted = network().run({"window": sample})["scores"].ravel()
        items = {int(item.label): item.score for item in predictor.predict(sample[0]).items}
        np.testing.assert_allclose([items[n] for n in range(CLASSES)], wanted, atol=0.06)
    predictor.close()


def integer_border_onnx(scale: list[float]) -> bytes:
    """An ONNX file with UINT8 in and INT8 out, as chips' own toolchains write them."""
    from onnx import TensorProto, helper, numpy_helper

    axis = {} if len(scale) == 1 else {"axis": 1}
    size = () if len(scale) == 1 else (len(scale),)
    values = {
        "sx": np.array(scale, np.float32).reshape(size),
        "zx": np.full(size, 100, np.uint8),
        "sy": np.array(0.25, np.float32),
        "zy": np.array(-3, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["real"], **axis),
            helper.make_node("Relu", ["real"], ["positive"]),
            helper.make_node("QuantizeLinear", ["positive", "sy", "zy"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("from_bytes", [True, False], ids=["bytes", "file"])
def test_an_onnx_file_with_integer_borders_says_their_scales(tmp_path, runtime, from_bytes):
    data, path = integer_border_onnx([0.5]), tmp_path / "q.onnx"
    path.write_bytes(data)
    backend = open_backend(
        data if from_bytes else path, Variant(id="v", backend=runtime, precision="int8"), {"threads": 1}
    )
    x, y = backend.inputs[0].quantization, backend.outputs[0].quantization
    assert (x.scale, x.zero_point, y.scale, y.zero_point) == (0.5, 100, 0.25, -3)
    held = backend.infer({"x": np.uint8([[100, 102, 90, 120]])})["y"]
    assert ((held.astype(float) - y.zero_point) * y.scale).tolist() == [[0, 1, 0, 10]]
    backend.close()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_border_with_a_scale_for_each_channel_is_refused_with_a_way_out(tmp_path, runtime):
    path = tmp_path / "q.onnx"
    path.write_bytes(integer_border_onnx([0.5, 0.25, 0.5, 0.5]))
    with pytest.raises(ModelLoadError, match="'x' has a scale for each channel") as caught:
        open_backend(path, Variant(id="v", backend=runtime), {"threads": 1})
    assert "litert" in caught.value.hint or "export" in caught.value.hint


def test_a_file_says_what_its_layers_compute_in(int8_file, tmp_path):
    net = network()
    meaning = quantize(net, observe(net, [{"window": each} for each in samples()]))
    assert file_facts(int8_file.read_bytes(), ".tflite").precision == "int8"
    assert file_facts(write_tflite(net), ".tflite").precision == "fp32"
    assert file_facts(write_onnx(net, meaning), ".onnx").precision == "int8"
    assert file_facts(write_onnx(net), ".onnx").precision == "fp32"
    assert file_facts(b'<net><layer type="FakeQuantize"/>', ".xml").precision == "int8"


@pytest.mark.parametrize("kind", [".tflite", ".onnx", ".xml"])
def test_any_bytes_at_all_are_read_without_a_crash(int8_file, kind):
    """Cut at every length, spoilt at many places: a float model's facts, or facts, and no other error."""
    data = int8_file.read_bytes() if kind == ".tflite" else integer_border_onnx([0.5])
    for cut in range(0, len(data), 7):
        file_facts(data[:cut], kind)
    for place in range(0, len(data), 3):
        spoilt = bytearray(data)
        spoilt[place] ^= 0xFF
        file_facts(bytes(spoilt), kind)


def test_a_float_file_has_no_quantisation(tmp_path):
    path = tiny_nets.write_tflite(tmp_path / "net.tflite")
    backend = open_backend(path, Variant(id="v", backend="openvino", precision="int8"), {"threads": 1})
    assert all(spec.quantization is None for spec in (*backend.inputs, *backend.outputs))
    backend.close()


def test_an_int8_file_that_its_manifest_calls_float_is_refused_where_openvino_would_saturate(
    int8_file, monkeypatch
):
    monkeypatch.setattr(openvino, "_cpu_flags", lambda: ["avx2"])
    monkeypatch.setattr(openvino.platform, "machine", lambda: "x86_64")
    with pytest.raises(ModelLoadError, match="the manifest says fp32, the file's layers are int8"):
        open_backend(int8_file, Variant(id="v", backend="openvino"), {"threads": 1})
    monkeypatch.setattr(openvino, "_cpu_flags", lambda: ["avx2", "avx_vnni"])
    open_backend(int8_file, Variant(id="v", backend="openvino"), {"threads": 1}).close()
