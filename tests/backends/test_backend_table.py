"""The table of backends: one row each, options checked, and nothing native imported to ask a version."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import edgekit.backends as table
from edgekit.backends import BACKENDS, LIBRARIES, OPTIONS, backend_version, check_options, open_backend, tiny
from edgekit.core.errors import BackendUnavailableError, ConfigError, ModelLoadError
from edgekit.core.spec import Variant

ROOT = Path(table.__file__).parents[2]


def test_every_backend_of_the_contract_has_a_row_in_each_table():
    assert {"litert", "onnxruntime", "openvino"} < set(BACKENDS) == set(LIBRARIES) == set(OPTIONS)


def test_a_backend_that_no_row_names_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="there is no backend 'tvm'") as caught:
        open_backend(tiny.tiny_model("litert"), Variant(id="v", backend="tvm"))
    assert "litert, " in caught.value.hint


def test_every_tenant_has_a_file():
    folder = Path(table.__file__).parent / "tenants"
    assert {folder / name for name in table.FOREIGN_TENANTS.values()} <= set(folder.iterdir())


def test_asking_for_versions_imports_no_runtime_and_no_numpy():
    code = (
        "import sys\n"
        "from edgekit.backends import BACKENDS, backend_version\n"
        "versions = [backend_version(name) for name in BACKENDS]\n"
        "print([m for m in ('numpy', 'openvino', 'onnxruntime', 'ai_edge_litert') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino"])
def test_an_installed_library_has_a_version(name):
    version = backend_version(name)
    assert version is not None
    assert version[0].isdigit()


def test_an_unknown_backend_is_a_configuration_error():
    for ask in (backend_version, lambda name: check_options(name, {})):
        with pytest.raises(ConfigError, match="no backend 'abacus'"):
            ask("abacus")


@pytest.mark.parametrize("name", list(BACKENDS))
def test_an_unknown_option_is_told_with_those_that_exist(name):
    with pytest.raises(ConfigError, match="no option 'thread'") as caught:
        open_backend(tiny.tiny_model(name), Variant(id="v", backend=name), {"thread": 2})
    assert "threads" in caught.value.hint


@pytest.mark.parametrize("option", sorted(table.MACHINE_OPTIONS))
def test_a_bundle_may_not_name_files_of_the_host(option):
    variant = Variant(id="v", backend="foreign", options={option: "/bin/sh"})
    with pytest.raises(ModelLoadError, match=f"sets '{option}'"):
        open_backend(tiny.tiny_model("foreign"), variant)


def test_the_machine_s_options_win_over_the_variant_s():
    shape = {"inputs": {"x": {"datatype": "FP32", "shape": [1]}}}
    variant = Variant(id="v", backend="null", options={"latency_ms": 60_000, **shape})
    backend = open_backend(tiny.tiny_model("null"), variant, {"latency_ms": 0})
    backend.run()
    assert backend.inputs[0].shape == (1,)
    backend.close()


def test_the_shipped_profiles_set_only_options_that_exist():
    profiles = sorted((ROOT / "device_profiles").glob("*.toml"))
    assert profiles
    for path in profiles:
        for row in msgspec.toml.decode(path.read_bytes()).get("backend", []):
            check_options(row["name"], row.get("options", {}))


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("litert", ["ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime.interpreter"]),
        ("onnxruntime", ["onnxruntime"]),
        ("openvino", ["openvino"]),
    ],
)
def test_a_library_that_is_not_installed_names_the_extra(name, modules, monkeypatch):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(BackendUnavailableError) as caught:
        open_backend(tiny.tiny_model(name), Variant(id="v", backend=name))
    assert f"pip install 'edgekit-runtime[{name}]'" in caught.value.render()


def test_the_tiny_model_s_files_are_what_its_script_makes(tmp_path):
    assert importlib.util.find_spec("onnx")
    from edgekit_optimize.zoo import tiny_model

    tiny_model.write(tmp_path)
    for name in ("relu.onnx", "relu.tflite", "relu.bin"):
        assert (tmp_path / name).read_bytes() == (Path(tiny.__file__).parent / name).read_bytes()


def test_the_tiny_model_s_expected_answer_is_worked_out_by_hand():
    assert tiny.expected() == (0.0, 12.0, 4.0, 2.0)
