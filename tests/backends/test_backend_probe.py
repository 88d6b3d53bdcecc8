"""A proof runs in a child: crash, abort and hang are reasons, and a wrong answer is found."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.backends import BACKENDS, backend_version
from edgekit.backends import probe as probe_module
from edgekit.backends.probe import prove
from edgekit.backends.tiny import tiny_model
from edgekit.base.accelerators import Accelerator
from edgekit.core.errors import ModelLoadError
from edgekit.core.spec import Variant


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino", "null"])
def test_a_backend_that_works_is_proved_with_a_time(name):
    fact = prove(name, timeout_s=120.0)
    assert (fact.name, fact.accelerator, fact.works, fact.reason) == (name, "cpu", True, "")
    assert 0 < fact.ms < 60_000
    assert fact.version == (backend_version(name) or "")


def test_a_crash_is_a_reason():
    fact = prove("null", options={"crash_at": 3})
    assert not fact.works
    assert fact.reason == "crashed with SIGSEGV; fix: install another version of this library, or remove it"
    assert fact.ms is None


def test_a_hang_is_a_reason_and_ends_in_time():
    fact = prove("null", options={"hang_at": 1}, timeout_s=2.0)
    assert fact.reason == "hung: no answer in 2 s"


def test_an_error_carries_its_hint():
    fact = prove("onnxruntime", "cuda")
    assert not fact.works
    assert "lacks CUDAExecutionProvider" in fact.reason
    assert 'install "onnxruntime-gpu' in fact.reason


def test_a_wrong_option_is_a_reason():
    assert "no option 'bogus'" in prove("litert", options={"bogus": 1}).reason


def test_a_library_that_is_not_installed_starts_no_child(monkeypatch):
    monkeypatch.setattr(probe_module, "backend_version", lambda name: None)
    fact = prove("openvino", timeout_s=0.0)
    assert fact.reason == "openvino is not installed: pip install 'edgekit-runtime[openvino]'"


def test_a_wrong_answer_does_not_pass():
    assert not probe_module._is_right([0.0, 12.0, 4.0])
    assert not probe_module._is_right([0.0, 12.0, 4.0, 2.1])
    assert not probe_module._is_right([float("nan")] * 4)
    assert probe_module._is_right([0.0, 12.0, 4.0, 2.01])


def test_a_runtime_that_computes_wrongly_is_not_proved(monkeypatch):
    monkeypatch.setattr(probe_module, "INPUTS", [1.0] * 16)  # so the answer is not the expected one
    answer = probe_module._prove(Variant(id="tiny", backend="onnxruntime"), {})
    assert answer["reason"].startswith("gave a wrong answer: expected [0.0, 12.0, 4.0, 2.0]")


def test_every_backend_can_be_asked():
    assert set(BACKENDS) == {"litert", "onnxruntime", "openvino", "foreign", "null"}


def test_a_provider_of_onnx_runtime_is_proved_by_its_name():
    fact = prove("onnxruntime", "ort:CPUExecutionProvider")
    assert fact.works, fact.reason
    assert fact.accelerator == "ort:CPUExecutionProvider"
    fact = prove("onnxruntime", "ort:NoSuchProvider")
    assert not fact.works
    assert "lacks NoSuchProvider" in fact.reason


def test_the_provider_that_sends_tensors_away_is_refused_under_any_name():
    fact = prove("onnxruntime", "ort:AzureExecutionProvider")
    assert not fact.works
    assert "is never used" in fact.reason


def test_a_kind_without_a_row_runs_on_no_backend():
    for name in ("litert", "onnxruntime", "openvino"):
        fact = prove(name, "no-such-kind")
        assert not fact.works
        assert "cannot run on 'no-such-kind'" in fact.reason


def test_an_accelerator_with_a_small_compiled_file_of_its_own_is_proved_by_running_it(monkeypatch, tmp_path):
    row = Accelerator(
        kind="compiled",
        title="takes compiled files only",
        proof="file",
        proof_file=str(tiny_model("onnxruntime")),
        runs={"onnxruntime": "CPUExecutionProvider"},
    )
    monkeypatch.setattr("edgekit.base.accelerators.ROWS", (row,))
    variant = Variant(id="tiny", backend="onnxruntime", accelerator="compiled")
    assert probe_module._prove(variant, {}) == {"works": True}
    (tmp_path / "broken").write_bytes(b"none")
    broken = msgspec.structs.replace(row, proof_file=str(tmp_path / "broken"))
    monkeypatch.setattr("edgekit.base.accelerators.ROWS", (broken,))
    with pytest.raises(ModelLoadError):
        probe_module._prove(variant, {})
