"""The TensorRT tenant against stand-ins for NVIDIA's library: the order of calls, the cache, the losses.

What a real GPU does is not shown by this; the tenant's docstring says so too.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from other_pythons import foreign_python

from edgekit.backends import open_backend, tiny
from edgekit.core.errors import AcceleratorLostError, BackendUnavailableError, ModelLoadError
from edgekit.core.spec import Variant

STAND_INS = Path(__file__).parent / "stand_ins"
VARIANT = Variant(id="trt", backend="foreign", accelerator="tensorrt", precision="fp16")
MODEL = tiny.tiny_model("foreign")


@pytest.fixture(scope="session")
def cudart(tmp_path_factory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the stand-in for the CUDA runtime is C, and there is no C compiler here")
    library = tmp_path_factory.mktemp("cuda") / "libcudart.so"
    source = str(STAND_INS / "cudart.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source], check=True)
    return library.parent


@pytest.fixture
def jetpack(cudart, tmp_path, monkeypatch):
    """An environment in which the foreign interpreter finds the stand-ins."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cudart))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    monkeypatch.setenv("STUB_BUILDS", str(tmp_path / "builds"))
    return {"python": foreign_python(), "cache": str(tmp_path / "engines")}


def builds(tmp_path: Path) -> int:
    file = tmp_path / "builds"
    return len(file.read_text().splitlines()) if file.exists() else 0


def run_once(options, model=MODEL) -> list[float]:
    backend = open_backend(model, VARIANT, options)
    assert backend.accelerator == "tensorrt"
    found = backend.infer({"x": np.array([tiny.INPUTS], np.float32)})["y"].ravel().tolist()
    backend.close()
    return found


def test_an_engine_is_built_once_and_then_taken_from_the_cache(jetpack, tmp_path):
    for _ in range(3):
        assert run_once(jetpack) == list(tiny.expected())
    assert builds(tmp_path) == 1
    (kept,) = (tmp_path / "engines").iterdir()
    assert kept.name.endswith("-10.3.0-sm87-fp16.engine")


def test_a_damaged_engine_in_the_cache_is_built_again(jetpack, tmp_path):
    run_once(jetpack)
    (kept,) = (tmp_path / "engines").iterdir()
    kept.write_bytes(b"half an eng")
    assert run_once(jetpack) == list(tiny.expected())
    assert builds(tmp_path) == 2


def test_without_a_cache_each_load_builds(jetpack, tmp_path):
    del jetpack["cache"]
    run_once(jetpack)
    run_once(jetpack)
    assert builds(tmp_path) == 2


def test_a_model_that_tensorrt_does_not_read_says_why(jetpack, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    with pytest.raises(ModelLoadError, match="not the tiny model"):
        run_once(jetpack, other)


def test_no_gpu_is_unavailable(jetpack, monkeypatch):
    monkeypatch.setenv("STUB_NO_GPU", "1")
    with pytest.raises(BackendUnavailableError, match="CUDA error 100"):
        run_once(jetpack)


def test_a_gpu_that_fails_during_a_run_is_lost(jetpack, monkeypatch):
    monkeypatch.setenv("STUB_LOST_GPU", "1")
    with pytest.raises(AcceleratorLostError, match="CUDA error 719"):
        run_once(jetpack)
