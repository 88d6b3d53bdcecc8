"""The TensorFlow Lite candidates of a small image model and of a sensor model, run as a device runs them."""

import numpy as np
import pytest

from edgekit.core.errors import BackendUnavailableError, ConfigError, ModelError, TensorError
from edgekit.core.spec import Pre, TensorSpec
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.quantize import Quantized
from edgekit_optimize.graph.tflite import read_tflite, write_tflite
from edgekit_optimize.makers.litert import integer_share, multiply_adds
from edgekit_optimize.plan import Plan, Root, maker

from .nets import conv, dense, run_onnx, run_tflite

PRE = Pre(mean=(127.0,), std=(128.0,))
SIDE = 24


def network():
    rng = np.random.default_rng(7)
    layers = (
        conv("a", "x", rng.normal(0, 0.4, (8, 3, 3, 3)), stride=(2, 2), activation="relu6"),
        conv("b", "a", rng.normal(0, 0.4, (1, 3, 3, 8)), kind="depthwise", activation="relu"),
        conv("c", "b", rng.normal(0, 0.4, (8, 1, 1, 8))),
        Layer("add", ("a", "c"), "d"),
        Layer("mean", ("d",), "e"),
        dense("y", "e", rng.normal(0, 1, (5, 8))),
    )
    return Network({"x": (1, SIDE, SIDE, 3)}, layers, ("y",))


def pixels(count=16):
    shape = (count, SIDE, SIDE, 3)
    return ((np.random.default_rng(0).integers(0, 256, shape) - 127.0) / 128.0).astype(np.float32)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "model.onnx").write_bytes(write_onnx(network()))
    np.savez(tmp_path / "calibration.npz", x=pixels().transpose(0, 3, 1, 2))
    return Root(
        onnx=str(tmp_path / "model.onnx"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1, 5)),),
        calibration=str(tmp_path / "calibration.npz"),
        pre=PRE,
        image="x",
        layout="NCHW",
    )


def make(root, tmp_path, technique, **options):
    folder = tmp_path / "made"
    folder.mkdir(exist_ok=True)
    made = maker(technique)(
        root, Plan(id="it", technique=technique, backend="litert", options=options), folder
    )
    return made, (folder / made.files[0]).read_bytes()


@pytest.mark.parametrize(
    ("technique", "options", "atol"),
    [
        ("litert-float", {}, 1e-5),
        ("litert-half", {}, 0.02),
        ("litert-static", {}, 0.15),
        ("litert-static", {"ranges": "percentile"}, 0.2),
        ("litert-static", {"keep_float": ["y"]}, 0.15),
        ("litert-static", {"per_channel": False}, 0.4),
        ("litert-weights", {"bits": 8}, 0.2),
        ("litert-weights", {"bits": 4}, 0.8),
    ],
)
def test_each_candidate_takes_channels_last_images_and_answers_nearly_as_the_model(
    technique, options, atol, root, tmp_path
):
    made, data = make(root, tmp_path, technique, **options)
    feeds = {"x": pixels()[:1]}
    assert made.layout == "NHWC"
    np.testing.assert_allclose(run_tflite(data, feeds)["y"], network().run(feeds)["y"], atol=atol)


def test_the_integers_of_the_image_are_its_bytes_where_the_data_fits_the_preprocessing(root, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    _, data = make(root, tmp_path, "litert-static")
    detail = Interpreter(model_content=data).get_input_details()[0]
    assert detail["dtype"] == np.int8
    assert detail["quantization"] == (1 / 128, -1)
    np.savez(root.calibration, x=pixels().transpose(0, 3, 1, 2) * 3)
    _, other = make(root, tmp_path, "litert-static")
    assert Interpreter(model_content=other).get_input_details()[0]["quantization"] != (1 / 128, -1)


def test_the_exact_onnx_file_has_the_same_integers(root, tmp_path):
    _, lite = make(root, tmp_path, "litert-static")
    made, onnx = make(root, tmp_path, "onnx-exact")
    assert made.layout == "NCHW"
    feeds = {"x": pixels()[1:2]}
    step = 2.5 * abs(run_tflite(lite, feeds)["y"]).max() / 127
    np.testing.assert_allclose(run_onnx(onnx, feeds)["y"], run_tflite(lite, feeds)["y"], atol=step)


def test_the_share_on_integers_counts_multiply_adds(root, tmp_path):
    work = multiply_adds(network())
    assert work == {"a": 144 * 8 * 27, "b": 144 * 8 * 9, "c": 144 * 8 * 8, "y": 40}
    made, _ = make(root, tmp_path, "litert-static", keep_float=["a/conv"])
    assert made.integer_share == pytest.approx(1 - work["a"] / sum(work.values()))
    assert "left in float: a/relu6" in made.notes
    assert integer_share(network(), Quantized({})) == 1.0


def test_an_edge_tpu_file_needs_the_compiler_and_its_absence_says_what_is_ready(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="is ready: all 6 operations"):
        make(root, tmp_path, "litert-edgetpu")
    program = tmp_path / "edgetpu_compiler"
    program.write_text('#!/bin/sh\necho "ADD  1  Mapped to Edge TPU"\n: > "$5/model_edgetpu.tflite"\n')
    program.chmod(0o755)
    made, _ = make(root, tmp_path, "litert-edgetpu")
    assert made.requires.edgetpu_runtime == ">=14"
    with pytest.raises(ConfigError, match="cannot run layers in float"):
        make(root, tmp_path, "litert-edgetpu", keep_float=["a"])


def test_a_model_that_is_a_tensorflow_lite_file_only_is_made_from_that(root, tmp_path):
    (tmp_path / "model.tflite").write_bytes(write_tflite(network()))
    np.savez(root.calibration, x=pixels())
    only = Root(
        tflite=str(tmp_path / "model.tflite"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, SIDE, SIDE, 3)),),
        outputs=root.outputs,
        calibration=root.calibration,
        pre=PRE,
        image="x",
        layout="NHWC",
    )
    made, data = make(only, tmp_path, "litert-float")
    assert data == (tmp_path / "model.tflite").read_bytes()
    _, int8 = make(only, tmp_path, "litert-static")
    feeds = {"x": pixels()[:1]}
    np.testing.assert_allclose(run_tflite(int8, feeds)["y"], network().run(feeds)["y"], atol=0.15)
    assert made.layout == "NHWC"


def test_a_file_with_an_operation_we_do_not_know_is_quantised_by_the_tool(root, tmp_path, monkeypatch):
    """A file that no network can say: here by taking the addition out of the words that are read."""
    monkeypatch.delitem(__import__("edgekit_optimize.graph.tflite_read", fromlist=["_KINDS"])._KINDS, "ADD")
    (tmp_path / "model.tflite").write_bytes(write_tflite(network()))
    np.savez(root.calibration, x=pixels())
    only = Root(
        tflite=str(tmp_path / "model.tflite"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, SIDE, SIDE, 3)),),
        outputs=root.outputs,
        calibration=root.calibration,
    )
    made, int8 = make(only, tmp_path, "litert-static")
    assert any("operation ADD is not supported" in note for note in made.notes)
    assert "litert-quantizer" in made.tools
    feeds = {"x": pixels()[:1]}
    np.testing.assert_allclose(run_tflite(int8, feeds)["y"], network().run(feeds)["y"], atol=0.3)
    with pytest.raises(ModelError, match="keep_float needs the model as a network"):
        make(only, tmp_path, "litert-static", keep_float=["a"])
    with pytest.raises(ModelError, match="operation ADD.* is not supported"):
        make(only, tmp_path, "litert-half")


def test_a_sensor_model_keeps_the_shape_of_its_input(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    kernel, matrix = rng.normal(0, 0.3, (8, 6, 5)), rng.normal(0, 0.3, (3, 8))
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], strides=[2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m"], ["y"], transB=1),
    ]
    constants = {"k": kernel, "m": matrix}
    graph = helper.make_graph(
        nodes,
        "sensor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 6, 50))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3))],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(tmp_path / "model.onnx"))
    windows = rng.normal(size=(12, 6, 50)).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=windows)
    sensor = Root(
        onnx=str(tmp_path / "model.onnx"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 6, 50)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=(1, 3)),),
        calibration=str(tmp_path / "calibration.npz"),
    )
    made, data = make(sensor, tmp_path, "litert-float")
    _, int8 = make(sensor, tmp_path, "litert-static")
    feeds = {"x": windows[:1]}
    wanted = run_onnx((tmp_path / "model.onnx").read_bytes(), feeds)["y"]
    assert made.layout == ""
    np.testing.assert_allclose(run_tflite(data, feeds)["y"], wanted, atol=1e-5)
    np.testing.assert_allclose(run_tflite(int8, feeds)["y"], wanted, atol=0.02)
    assert read_tflite(data).inputs == {"x": (1, 6, 50)}


def test_what_cannot_be_made_says_why(root, tmp_path):
    with pytest.raises(ConfigError, match="option bits"):
        make(root, tmp_path, "litert-weights", bits=3)
    with pytest.raises(ConfigError, match="option ranges"):
        make(root, tmp_path, "litert-static", ranges="best")
    with pytest.raises(ModelError, match="no such layer"):
        make(root, tmp_path, "litert-static", keep_float=["nowhere"])
    nothing = Root(inputs=root.inputs, outputs=root.outputs, missing={"tflite": "LSTM"})
    with pytest.raises(ModelError, match="no ONNX or TensorFlow Lite form: LSTM"):
        make(nothing, tmp_path, "litert-float")
    np.savez(root.calibration, x=np.zeros((4, 3, SIDE, SIDE), np.float32))
    with pytest.raises(TensorError, match="samples are equal"):
        make(root, tmp_path, "litert-static")
