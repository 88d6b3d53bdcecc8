"""OpenVINO: the precision is the variant's, the device the one asked for, and nothing is reported home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_nets
from onnx import TensorProto, helper

from edgekit.backends import open_backend
from edgekit.backends.openvino import file_reason, import_openvino, int8_reason
from edgekit.core.errors import BackendUnavailableError, ModelLoadError
from edgekit.core.spec import Variant

ROOT = Path(__file__).parents[2]
CPU = Variant(id="cpu", backend="openvino")
INT8 = Variant(id="int8", backend="openvino", precision="int8")
DOT_PRODUCT = 1 << 20


@pytest.fixture
def model(tmp_path):
    return tiny_nets.write_onnx(tmp_path / "net.onnx")


def precision_of(backend) -> str:
    compiled = backend._request.get_compiled_model()
    return compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()


def test_a_float_variant_runs_in_float32_even_where_the_cpu_has_less(model):
    backend = open_backend(model, CPU)
    assert precision_of(backend) == "f32"
    x = tiny_nets.sample()
    np.testing.assert_allclose(backend.infer({"x": x})["y"], tiny_nets.reference(x), atol=tiny_nets.TOLERANCE)
    backend.close()


def test_a_variant_that_says_bf16_gets_it_where_the_cpu_has_it(model):
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    backend = open_backend(model, Variant(id="v", backend="openvino", precision="bf16"))
    assert precision_of(backend) == ("bf16" if "BF16" in capabilities else "f32")
    backend.close()


@pytest.mark.parametrize(("accelerator", "name"), [("openvino-gpu", "GPU"), ("npu", "NPU")])
def test_a_device_that_is_not_there_is_unavailable_and_not_the_cpu(model, accelerator, name):
    if any(found.startswith(name) for found in import_openvino().Core().available_devices):
        pytest.skip(f"this machine has a {name}")
    with pytest.raises(BackendUnavailableError, match=f"openvino finds no {name}") as caught:
        open_backend(model, Variant(id="v", backend="openvino", accelerator=accelerator))
    assert "driver" in caught.value.hint


def test_myriad_is_sent_to_the_foreign_backend(model):
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend(model, Variant(id="v", backend="openvino", accelerator="myriad"))
    assert "tenant 'myriad'" in caught.value.hint


def test_auto_says_what_really_runs(model):
    backend = open_backend(model, CPU, {"device": "AUTO:CPU"})
    assert backend.accelerator == "cpu"
    backend.close()


def test_nothing_of_its_telemetry_is_imported():
    code = (
        "import sys\n"
        "from edgekit.backends.openvino import import_openvino\n"
        "import_openvino()\n"
        "print([name for name, it in sys.modules.items() if name.startswith('openvino_telemetry') and it])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_cache_folder_is_filled_and_used(model, tmp_path):
    for _ in range(2):
        backend = open_backend(model, CPU, {"cache": str(tmp_path / "cache")})
        backend.run()
        backend.close()
    assert list((tmp_path / "cache").iterdir())


def test_an_output_whose_size_the_data_decides_is_whole_each_time(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["at"])],
        "nonzero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("at", TensorProto.INT64, [2, "found"])],
    )
    backend = open_backend(tiny_nets.save_onnx(tmp_path / "nonzero.onnx", graph), CPU)
    for count in (0, 3, 8, 1):
        x = np.zeros((1, 8), np.float32)
        x[0, :count] = 1
        assert backend.infer({"x": x})["at"].shape == (2, count)
    backend.close()


def test_an_input_keeps_its_name_where_compiling_merges_it_with_another_tensor(tmp_path):
    """A slice of the whole vanishes, and the input then has both names: 'all' comes before 'h'."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["h", "from", "to"], ["all"]),
            helper.make_node("Add", ["all", "x"], ["y"]),
        ],
        "merged",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("x", "h")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [
            helper.make_tensor("from", TensorProto.INT64, (2,), [0, 0]),
            helper.make_tensor("to", TensorProto.INT64, (2,), [1, 4]),
        ],
    )
    path = tmp_path / "merged.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    backend = open_backend(path, CPU)
    x, h = np.ones((1, 4), np.float32), np.full((1, 4), 2, np.float32)
    assert backend.infer({"x": x, "h": h})["y"].tolist() == [[3, 3, 3, 3]]
    backend.close()


def test_a_batch_is_settled_by_options(model):
    backend = open_backend(model, CPU, {"shapes": {"x": [2, tiny_nets.INPUTS]}})
    assert backend.outputs[0].shape == (2, tiny_nets.OUTPUTS)
    backend.close()


def test_an_unknown_property_is_told_with_the_file(model):
    with pytest.raises(ModelLoadError, match=r"net\.onnx: openvino refuses"):
        open_backend(model, CPU, {"properties": {"NO_SUCH_PROPERTY": "1"}})


@pytest.mark.parametrize(
    ("precision", "machine", "flags", "variant", "is_refused"),
    [
        ("int8", "x86_64", ("avx2",), CPU, True),
        ("int8", "x86_64", ("avx2", "avx_vnni"), CPU, False),
        ("int8", "x86_64", (), CPU, False),
        ("int8", "aarch64", (), CPU, True),
        ("fp32", "x86_64", ("avx2",), CPU, False),
        ("int8", "x86_64", ("avx2",), INT8, False),
    ],
)
def test_a_file_of_int8_layers_that_its_manifest_calls_float_is_judged_by_the_file(
    precision, machine, flags, variant, is_refused
):
    reason = file_reason(precision, machine, flags, variant)
    assert (reason is not None) == is_refused
    assert not is_refused or "the manifest says fp32, the file's layers are int8" in reason


@pytest.mark.parametrize(
    ("machine", "hwcap", "device", "variant", "options", "is_refused"),
    [
        ("aarch64", 0, "CPU", INT8, {}, True),
        ("aarch64", DOT_PRODUCT, "CPU", INT8, {}, False),
        ("aarch64", 0, "CPU", CPU, {}, False),
        ("aarch64", 0, "CPU", INT8, {"properties": {"LP_TRANSFORMS_MODE": "NO"}}, False),
        ("x86_64", 0, "CPU", INT8, {}, False),
        ("aarch64", 0, "NPU", INT8, {}, False),
    ],
)
def test_int8_is_refused_only_on_an_arm_cpu_without_dot_product(
    machine, hwcap, device, variant, options, is_refused
):
    assert (int8_reason(machine, hwcap, device, variant, options) is not None) == is_refused


_CLOSED_ELSEWHERE = """
import os, signal, sys, threading
from pathlib import Path
from edgekit.backends import open_backend
from edgekit.core.spec import Variant

signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
backend = open_backend(Path(sys.argv[1]), Variant(id="v", backend="openvino"), {"threads": 1})
backend.run()
closer = threading.Thread(target=backend.close)
closer.start()
closer.join()
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def test_a_model_may_be_closed_by_another_thread_than_opened_it(model):
    """OpenVINO's own objects would leave the opener a freed signal stack: it died of its next signal."""
    command = [sys.executable, "-c", _CLOSED_ELSEWHERE, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "alive"])


def test_strings_are_refused_at_load(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "words", ends[:1], ends[1:])
    with pytest.raises(ModelLoadError, match="holds .*string"):
        open_backend(tiny_nets.save_onnx(tmp_path / "words.onnx", graph), CPU)
