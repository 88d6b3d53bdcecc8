"""Variants of one file on accelerators: those proved here, and those that are named."""

from __future__ import annotations

import pytest
from imported_nets import classifier, ultralytics

from edgekit.cli.main import main
from edgekit.core.errors import UsageError
from edgekit.core.spec import BackendFact, Facts, Variant
from edgekit.importer.accelerators import named_accelerators, on_accelerators, runs_here
from edgekit.model.bundle import open_bundle

FLOAT = Variant(id="onnxruntime-fp32", backend="onnxruntime", precision="fp32")
INT8 = Variant(id="onnxruntime-int8", backend="onnxruntime", precision="int8")
WITH_GPU = Facts(
    arch="x86_64",
    backends=(
        BackendFact(name="onnxruntime", works=True),
        BackendFact(name="onnxruntime", accelerator="cuda", works=True),
        BackendFact(name="onnxruntime", accelerator="tensorrt", reason="TensorRT is not installed"),
        BackendFact(name="openvino", accelerator="openvino-gpu", works=True),
    ),
)


def ids(variant, *named):
    return [v.id for v in on_accelerators(variant, WITH_GPU, named)]


def test_a_float_file_gets_a_variant_for_each_accelerator_its_runtime_was_proved_on():
    assert ids(FLOAT) == ["onnxruntime-fp32-cuda"]


def test_a_quantised_file_stays_on_the_processor_until_an_accelerator_is_named():
    assert ids(INT8) == []
    assert ids(INT8, "tensorrt") == ["onnxruntime-int8-tensorrt"]


def test_a_named_accelerator_that_is_not_here_is_not_compared():
    here, named = on_accelerators(FLOAT, WITH_GPU, ["tensorrt", "cuda", "npu"])[:2]
    assert (here.accelerator, named.accelerator) == ("cuda", "tensorrt")
    assert (runs_here(FLOAT, WITH_GPU), runs_here(here, WITH_GPU), runs_here(named, WITH_GPU)) == (1, 1, 0)


def test_an_accelerator_that_the_runtime_does_not_run_gets_no_variant():
    assert ids(Variant(id="litert-fp32", backend="litert", precision="fp32"), "cuda") == []


@pytest.mark.parametrize("words", ["gpu", "cuda,edgetpu", ["cpu"]])
def test_an_unknown_accelerator_or_one_with_a_compiler_of_its_own_is_refused_by_name(words):
    with pytest.raises(UsageError, match="is none of"):
        named_accelerators(words)
    assert named_accelerators("cuda, tensorrt") == ("cuda", "tensorrt")


def test_a_named_accelerator_is_said_to_be_not_compared_and_nothing_else_of_it(tmp_path, capsys):
    net = classifier(tmp_path / "net.onnx", ultralytics("classify"))
    assert main(["import", str(net), "-o", str(tmp_path / "b"), "accelerators=cuda", "license=MIT"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "-cuda" in line]
    assert said == ["  variant onnxruntime-fp32-cuda: not compared here"]
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.provenance.not_compared == ("onnxruntime-fp32-cuda",)
    assert len({file.path for variant in manifest.variants for file in variant.files}) == 1
