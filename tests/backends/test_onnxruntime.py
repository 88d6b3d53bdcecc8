"""ONNX Runtime: never another provider than asked for, and any shape of output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_nets
from onnx import TensorProto, helper
from onnx_bundles import make_onnx

from edgekit.backends import open_backend, ort_providers
from edgekit.core.errors import (
    BackendUnavailableError,
    ConfigError,
    InferenceError,
    ModelLoadError,
    StorageError,
)
from edgekit.core.spec import Variant

ROOT = Path(__file__).resolve().parents[2]
CPU = Variant(id="cpu", backend="onnxruntime")
TENSORRT = Variant(id="trt", backend="onnxruntime", accelerator="tensorrt")


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def model(tmp_path):
    return tiny_nets.write_onnx(tmp_path / "net.onnx")


def test_it_leaves_nothing_of_its_telemetry_in_the_home_folder(model, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgekit.backends import open_backend\n"
        "from edgekit.core.spec import Variant\n"
        "open_backend(Path(sys.argv[1]), Variant(id='cpu', backend='onnxruntime')).run()\n"
    )
    # in continuous integration it stays silent by itself
    environment = {name: text for name, text in os.environ.items() if name not in ("CI", "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", code, str(model)], check=True, cwd=ROOT, env=environment)
    assert list(home.rglob("*")) == []


@pytest.fixture
def nonzero(tmp_path):
    """A model whose output has as many columns as its input has non-zero values."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["at"])],
        "nonzero",
        [value("x", TensorProto.FLOAT, [1, 8])],
        [value("at", TensorProto.INT64, [2, "found"])],
    )
    return tiny_nets.save_onnx(tmp_path / "nonzero.onnx", graph)


@pytest.mark.parametrize(
    ("accelerator", "provider"),
    [("cuda", "CUDA"), ("tensorrt", "Tensorrt"), ("openvino-gpu", "OpenVINO"), ("npu", "OpenVINO")],
)
def test_a_provider_that_this_build_lacks_is_unavailable_and_not_the_cpu(model, accelerator, provider):
    if f"{provider}ExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip(f"this build of onnxruntime has {provider}")
    with pytest.raises(BackendUnavailableError, match=f"lacks {provider}ExecutionProvider") as caught:
        open_backend(model, Variant(id="v", backend="onnxruntime", accelerator=accelerator))
    assert "Azure" not in caught.value.render()
    assert "install" in caught.value.hint


def test_the_provider_that_sends_tensors_away_is_never_used(model):
    variant = Variant(id="v", backend="onnxruntime", accelerator="delegate")
    with pytest.raises(ConfigError, match="sends tensors to a server"):
        open_backend(model, variant, {"provider": "AzureExecutionProvider"})


def test_a_session_has_only_the_provider_it_was_asked_for(model):
    backend = open_backend(model, CPU)
    assert backend._session.get_providers() == ["CPUExecutionProvider"]
    backend.close()


def test_another_provider_is_taken_by_name_or_refused_by_name(model):
    variant = Variant(id="v", backend="onnxruntime", accelerator="delegate")
    with pytest.raises(BackendUnavailableError, match="lacks XnnpackExecutionProvider"):
        open_backend(model, variant, {"provider": "XnnpackExecutionProvider"})
    with pytest.raises(BackendUnavailableError, match="cannot run on 'delegate'") as caught:
        open_backend(model, variant)
    assert "options.provider" in caught.value.hint


def test_a_provider_library_that_is_not_there_is_unavailable(model):
    options = {"provider_library": {"name": "stub", "path": "/nowhere/libep.so"}}
    with pytest.raises(BackendUnavailableError, match="cannot be loaded"):
        open_backend(model, CPU, options)


def test_provider_options_take_device_and_cache_folder(tmp_path):
    options = {"device": 1, "cache": str(tmp_path / "engines"), "provider_options": {"trt_fp16_enable": 1}}
    chosen = ort_providers.provider_options("TensorrtExecutionProvider", TENSORRT, options)
    assert chosen["device_id"] == "1"
    assert chosen["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert chosen["trt_fp16_enable"] == "1"
    assert (tmp_path / "engines").is_dir()


def test_a_cache_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be created"):
        ort_providers.provider_options(
            "TensorrtExecutionProvider", TENSORRT, {"cache": str(tmp_path / "file" / "below")}
        )


def test_what_computes_on_the_processor_beside_a_gpu_is_named_and_sizes_are_not(model):
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry(ort_providers.RECORD, "1")
    session = onnxruntime.InferenceSession(str(model), settings, providers=[ort_providers.CPU])
    assert ort_providers.computes_beside_sizes(session)  # here everything stands on the processor
    assert ort_providers.beyond_sizes(["Shape", "Gather", "Concat"]) == ""
    assert ort_providers.beyond_sizes(["Conv", "Shape", "Conv", "Resize"]) == "Conv x 2, Resize x 1"


def test_what_the_runtime_prints_of_missing_cuda_libraries_is_logged_and_not_printed(capsys, caplog):
    class Speaking:
        def preload_dlls(self):
            print("Failed to load libcublas.so.13")

    ort_providers.load_cuda_libraries(Speaking())
    ort_providers.load_cuda_libraries(object())  # a build from before there was such a function
    assert "Failed to load libcublas.so.13" in caplog.text
    assert capsys.readouterr().out == ""


def test_an_output_whose_size_the_data_decides_is_whole_each_time(nonzero):
    backend = open_backend(nonzero, CPU)
    assert backend.outputs[0].shape == (2, -1)
    for count in (0, 3, 8, 1):
        x = np.zeros((1, 8), np.float32)
        x[0, :count] = 1
        assert backend.infer({"x": x})["at"].shape == (2, count)
    backend.close()


@pytest.mark.parametrize("declared", [[7, 1], ["n", "m"]])
def test_an_output_that_is_declared_with_a_false_shape_is_whole(declared, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["all"]), helper.make_node("Transpose", ["all"], ["at"])],
        "false",
        [value("x", TensorProto.FLOAT, ["n", "m"])],
        [value("at", TensorProto.INT64, declared)],
    )
    backend = open_backend(tiny_nets.save_onnx(tmp_path / "n.onnx", graph), CPU, {"shapes": {"x": [1, 9]}})
    for count in (3, 0, 9):
        x = np.zeros((1, 9), np.float32)
        x[0, :count] = 1
        assert backend.infer({"x": x})["at"].shape == (count, 2)
    backend.close()


def test_a_batch_is_settled_by_options_and_outputs_follow(model):
    backend = open_backend(model, CPU, {"shapes": {"x": [3, tiny_nets.INPUTS]}})
    assert (backend.inputs[0].shape, backend.outputs[0].shape) == (
        (3, tiny_nets.INPUTS),
        (3, tiny_nets.OUTPUTS),
    )
    x = np.concatenate([tiny_nets.sample(seed) for seed in range(3)])
    np.testing.assert_allclose(backend.infer({"x": x})["y"], tiny_nets.reference(x), atol=tiny_nets.TOLERANCE)
    backend.close()


def test_free_dimensions_beside_the_batch_must_be_settled(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "free",
        [value("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value("y", TensorProto.FLOAT, ["n", 3, "h", "w"])],
    )
    path = tiny_nets.save_onnx(tmp_path / "free.onnx", graph)
    with pytest.raises(ModelLoadError, match="free dimensions") as caught:
        open_backend(path, CPU)
    assert "options.shapes" in caught.value.hint
    backend = open_backend(path, CPU, {"shapes": {"x": [1, 3, 4, 5]}})
    assert backend.outputs[0].shape == (1, 3, 4, 5)
    backend.close()


def test_scalars_integers_and_several_tensors_pass(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["a", "k"], ["scaled"]), helper.make_node("Neg", ["a"], ["negative"])],
        "several",
        [value("a", TensorProto.INT64, [2, 2]), value("k", TensorProto.INT64, [])],
        [value("scaled", TensorProto.INT64, [2, 2]), value("negative", TensorProto.INT64, [2, 2])],
    )
    backend = open_backend(tiny_nets.save_onnx(tmp_path / "several.onnx", graph), CPU)
    a = np.arange(4).reshape(2, 2)
    found = backend.infer({"k": np.array(3), "a": a})
    np.testing.assert_array_equal(found["scaled"], a * 3)
    np.testing.assert_array_equal(found["negative"], -a)
    backend.close()


def test_texts_go_in_and_come_out(tmp_path):
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["n"], ["m"])]
    path = make_onnx(
        tmp_path / "words.onnx",
        nodes,
        [("x", "BYTES", ["rows", 2]), ("n", "FP32", ["rows"])],
        [("y", "BYTES", ["rows", 2]), ("m", "FP32", ["rows"])],
    )
    backend = open_backend(path, CPU)
    assert [(spec.name, spec.datatype, spec.shape) for spec in backend.inputs] == [
        ("x", "BYTES", (1, 2)),
        ("n", "FP32", (1,)),
    ]
    texts = np.array([["a", "ü"]], object)
    found = backend.infer({"x": texts, "n": np.float32([2])})
    assert (found["y"].tolist(), found["m"].tolist()) == ([["a", "ü"]], [-2.0])


@pytest.mark.parametrize(("key", "labels"), [("int64s", [3, 7]), ("strings", ["no", "yes"])])
def test_a_map_for_each_row_becomes_columns_in_the_order_of_its_keys(tmp_path, key, labels):
    nodes = [
        helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", **{f"classlabels_{key}": labels})
    ]
    kind = TensorProto.INT64 if key == "int64s" else TensorProto.STRING
    element = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    maps = helper.make_value_info("maps", helper.make_sequence_type_proto(element))
    path = make_onnx(tmp_path / "zipmap.onnx", nodes, [("x", "FP32", [2, 2])], [maps], ai_onnx_ml=1)
    backend = open_backend(path, CPU)
    assert (backend.outputs[0].datatype, backend.outputs[0].shape) == ("FP32", (-1, -1))
    found = backend.infer({"x": np.float32([[0.25, 0.75], [1, 0]])})
    assert found["maps"].tolist() == [[0.25, 0.75], [1, 0]]
    assert backend.classes == {"maps": tuple(map(str, labels))}


def test_what_is_no_number_text_or_map_is_refused_at_load(tmp_path):
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
    outputs = [helper.make_value_info("y", sequence)]
    path = make_onnx(tmp_path / "sequence.onnx", nodes, [("x", "FP32", [1])], outputs)
    with pytest.raises(ModelLoadError, match=r"holds seq\(tensor\(float\)\)"):
        open_backend(path, CPU)


def test_a_run_that_fails_is_an_inference_error_and_the_next_may_work(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "at"], ["y"])],
        "gather",
        [value("x", TensorProto.FLOAT, [4]), value("at", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    backend = open_backend(tiny_nets.save_onnx(tmp_path / "gather.onnx", graph), CPU)
    x = np.arange(4, dtype=np.float32)
    with pytest.raises(InferenceError, match=r"gather\.onnx: onnxruntime failed"):
        backend.infer({"x": x, "at": np.array([9])})
    assert backend.infer({"x": x, "at": np.array([2])})["y"].tolist() == [2.0]
    backend.close()


@pytest.mark.parametrize(
    "options", [{"spinning": False}, {"arena": False}, {"optimization": "none"}, {"threads": 2}]
)
def test_every_option_opens_a_session_that_answers(model, options):
    backend = open_backend(model, CPU, options)
    x = tiny_nets.sample()
    np.testing.assert_allclose(backend.infer({"x": x})["y"], tiny_nets.reference(x), atol=tiny_nets.TOLERANCE)
    backend.close()


@pytest.mark.parametrize(
    "options", [{"optimization": "max"}, {"threads": 0}, {"threads": "2"}, {"threads": True}]
)
def test_an_option_out_of_range_is_a_configuration_error(model, options):
    with pytest.raises(ConfigError, match="want"):
        open_backend(model, CPU, options)


def test_int8_products_do_not_saturate_whatever_the_cpu(tmp_path):
    """255 x 127 twice is more than 16 bits hold: the fast kernels of a CPU without VNNI give 32767."""
    node = helper.make_node
    graph = helper.make_graph(
        [node("MatMulInteger", ["x", "w"], ["sum"]), node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT)],
        "products",
        [value("x", TensorProto.UINT8, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor("w", TensorProto.INT8, [8, 4], np.full(32, 127, np.int8).tobytes(), raw=True)],
    )
    path = tiny_nets.save_onnx(tmp_path / "products.onnx", graph)
    backend = open_backend(path, CPU)
    answer = backend.infer({"x": np.full((1, 8), 255, np.uint8)})["y"]
    backend.close()
    assert answer.tolist() == [[8 * 255 * 127.0] * 4]
