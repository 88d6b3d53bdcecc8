"""LiteRT: delegates prove that they took the model, errors do not pile up, models keep no old state."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_nets

from edgekit.backends import open_backend, tiny
from edgekit.backends.probe import prove
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendUnavailableError,
    ConfigError,
    InferenceError,
    ModelLoadError,
)
from edgekit.core.spec import Quantization, Variant

CPU = Variant(id="cpu", backend="litert")
EDGETPU = Variant(id="tpu", backend="litert", accelerator="edgetpu", precision="int8")
DELEGATE = Variant(id="npu", backend="litert", accelerator="delegate")


@pytest.fixture(scope="session")
def stub(tmp_path_factory) -> str:
    """The stand-in delegate, compiled now."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the stub delegate is C, and there is no C compiler here")
    library = tmp_path_factory.mktemp("stub") / "libstub.so"
    source = Path(__file__).parent / "stub_delegate.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return str(library)


@pytest.fixture
def compiled(tmp_path) -> Path:
    """A model of one Edge TPU operation."""
    path = tmp_path / "net_edgetpu.tflite"
    tensors = [("x", (1, 8), None), ("y", (1, 4), None)]
    path.write_bytes(tiny_nets.tflite(tensors, [([0], [1], False)], [0], [1], custom_op="edgetpu-custom-op"))
    return path


@pytest.fixture
def plain(tmp_path) -> Path:
    return tiny_nets.write_tflite(tmp_path / "net.tflite")


def with_stub(stub: str, **options: str) -> dict[str, object]:
    return {"delegate": {"path": stub, "options": options}}


@pytest.mark.parametrize("variant", [EDGETPU, DELEGATE], ids=["edgetpu", "delegate"])
def test_a_delegate_that_takes_the_model_runs_it(stub, compiled, variant):
    backend = open_backend(compiled, variant, with_stub(stub))
    assert backend.accelerator == variant.accelerator
    assert backend.infer({"x": np.ones((1, 8), np.float32)})["y"].shape == (1, 4)
    backend.close()


def test_an_edge_tpu_model_is_refused_on_the_cpu_by_name(compiled):
    with pytest.raises(ModelLoadError, match="compiled for an Edge TPU, asked to run on 'cpu'"):
        open_backend(compiled, CPU)


def test_a_model_that_is_not_compiled_is_refused_on_the_edge_tpu(stub, plain):
    with pytest.raises(ModelLoadError, match="not compiled for the Edge TPU"):
        open_backend(plain, EDGETPU, with_stub(stub))


def test_a_delegate_that_takes_nothing_is_refused(stub, plain):
    with pytest.raises(ModelLoadError, match="took no part of the model"):
        open_backend(plain, DELEGATE, with_stub(stub, claim="0"))


def test_a_delegate_without_its_device_says_what_it_said(stub, compiled):
    with pytest.raises(BackendUnavailableError, match="stub: no device") as caught:
        open_backend(compiled, EDGETPU, with_stub(stub, absent="1"))
    assert "edgekit doctor" in caught.value.hint


def test_a_missing_delegate_library_says_what_to_install(compiled):
    options = {"delegate": {"path": "/nowhere/libedgetpu.so.1"}}
    with pytest.raises(BackendUnavailableError, match="cannot be loaded") as caught:
        open_backend(compiled, EDGETPU, options)
    assert "libedgetpu1-std" in caught.value.hint


def test_a_delegate_without_a_path_is_a_configuration_error(compiled):
    with pytest.raises(ConfigError, match="needs the delegate's library"):
        open_backend(compiled, DELEGATE)


def test_one_failed_transfer_is_an_inference_error_and_the_next_run_works(stub, compiled):
    backend = open_backend(compiled, EDGETPU, with_stub(stub, fail="2"))
    backend.run()
    with pytest.raises(InferenceError, match="transfer failed"):
        backend.run()
    backend.run()
    backend.close()


def test_errors_do_not_pile_up(stub, compiled):
    backend = open_backend(compiled, EDGETPU, with_stub(stub, fail="1"))
    messages = []
    for _ in range(20):  # the interpreter is new after each error, so each first run fails again
        with pytest.raises(InferenceError) as caught:
            backend.run()
        messages.append(len(caught.value.message))
    assert max(messages) == min(messages)
    backend.close()


def test_an_accelerator_that_does_not_come_back_is_lost(stub, compiled, tmp_path):
    library = Path(shutil.copy(stub, tmp_path / "gone.so"))
    backend = open_backend(compiled, EDGETPU, with_stub(str(library), fail="1"))
    library.unlink()
    compiled.unlink()
    with pytest.raises(AcceleratorLostError, match="does not come back"):
        backend.run()
    backend.close()


def test_an_accelerator_that_litert_does_not_know_is_refused(plain):
    with pytest.raises(BackendUnavailableError, match="litert cannot run on 'cuda'"):
        open_backend(plain, Variant(id="v", backend="litert", accelerator="cuda"))


def test_a_view_held_during_a_run_is_told_and_not_a_crash(plain):
    backend = open_backend(plain, CPU)
    held = backend.view("x")
    with pytest.raises(InferenceError, match="still held") as caught:
        backend.run()
    assert "del" in caught.value.hint
    held = None
    assert backend.run()["y"].shape == (1, tiny_nets.OUTPUTS)
    assert held is None


def test_reset_gives_a_fresh_interpreter_that_runs(plain):
    backend = open_backend(plain, CPU)
    before = backend.infer({"x": tiny_nets.sample()})["y"].copy()
    backend.reset()
    np.testing.assert_array_equal(backend.infer({"x": tiny_nets.sample()})["y"], before)
    backend.close()


def test_it_says_which_library_runs_it(plain):
    backend = open_backend(plain, CPU)
    assert backend.library in {"ai-edge-litert", "tflite-runtime"}
    backend.close()


def test_proving_an_edge_tpu_opens_the_device_and_says_that_nothing_ran(stub):
    fact = prove("litert", "edgetpu", with_stub(stub))
    assert fact.works
    assert "no model was run" in fact.reason
    absent = prove("litert", "edgetpu", with_stub(stub, absent="1"))
    assert not absent.works
    assert "stub: no device" in absent.reason


def test_a_free_batch_is_one_and_shapes_settle_others(plain):
    backend = open_backend(plain, CPU, {"shapes": {"x": [1, tiny_nets.INPUTS]}})
    assert backend.inputs[0].shape == (1, tiny_nets.INPUTS)
    with pytest.raises(ModelLoadError, match=r"options.shapes asks for \(2, 3\)"):
        open_backend(plain, CPU, {"shapes": {"x": [2, 3]}})
    assert tiny.tiny_model("litert").exists()


def test_quantisation_stands_in_the_spec(stub, compiled):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(compiled.read_bytes(), 0)
    for tensor, (scale, zero_point) in zip(model.subgraphs[0].tensors, [(0.5, -3), (0.25, 7)], strict=True):
        tensor.type = schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    compiled.write_bytes(builder.Output())
    backend = open_backend(compiled, EDGETPU, with_stub(stub))
    assert backend.inputs[0].datatype == "INT8"
    assert backend.inputs[0].quantization == Quantization(scale=0.5, zero_point=-3)
    assert backend.outputs[0].quantization == Quantization(scale=0.25, zero_point=7)
    backend.close()
