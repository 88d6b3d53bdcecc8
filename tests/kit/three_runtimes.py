"""One model for three runtimes: what runs on several at once on any machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import edgekit.backends.tiny

TINY = Path(edgekit.backends.tiny.__file__).parent
VARIANTS = (
    ("tflite", "litert", ("relu.tflite",)),
    ("ort", "onnxruntime", ("relu.onnx",)),
    ("ov", "openvino", ("relu.xml", "relu.bin")),
)
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)


def make_three(folder: Path, **manifest: Any) -> Path:
    """Write a bundle of the tiny model with a variant for each runtime; return its folder.

    ``manifest`` has the fields of ``bundle.json`` that differ.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "golden/0.npz", x=X)
    np.savez(folder / "golden/0.out.npz", y=_right())
    variants = [
        {"id": name, "backend": backend, "files": [_listed(folder, file) for file in files]}
        for name, backend, files in VARIANTS
    ]
    golden = ("golden/0.npz", "golden/0.out.npz")
    document = {
        "format": 1,
        "model": "relu",
        "version": "1.0.0",
        "task": "raw",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4]}],
        "variants": variants,
        "golden": [{"inputs": golden[0], "outputs": golden[1], "atol": 0.001}],
        "files": [_listed(folder, path) for path in golden],
        **manifest,
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def _right() -> Any:
    from edgekit.model.api import load

    with load(TINY / "relu.onnx") as model:
        return np.array(model.infer({"x": X})["y"])


def _listed(folder: Path, path: str) -> dict[str, Any]:
    if not (folder / path).exists():
        shutil.copyfile(TINY / path, folder / path)
    data = (folder / path).read_bytes()
    return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
