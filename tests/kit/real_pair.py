"""A bundle of two real runtimes: the same tiny network for LiteRT and for ONNX Runtime."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgekit.backends.tiny
from edgekit.backends.litert import LiteRtBackend
from edgekit.backends.tiny import INPUTS, expected
from edgekit.core.errors import AcceleratorLostError

TINY = Path(edgekit.backends.tiny.__file__).parent


def write_pair(folder: Path) -> Path:
    """Write a sensor model with the variants ``lite`` (ranked first) and ``onnx``; return its folder."""
    folder.mkdir(parents=True)
    x, y = np.float32(INPUTS).reshape(1, 16), np.float32(expected()).reshape(1, 4)
    np.savez(folder / "0.npz", x=x)
    np.savez(folder / "0.out.npz", scores=y)
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    variants = []
    for name, backend, file in (("onnx", "onnxruntime", "relu.onnx"), ("lite", "litert", "relu.tflite")):
        (folder / file).write_bytes((TINY / file).read_bytes())
        variants.append(
            {"id": name, "backend": backend, "outputs": {"scores": "y"}, "files": [_listed(folder, file)]}
        )
    document = {
        "format": 1,
        "model": "relu",
        "version": "1.0.0",
        "task": "sensor",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 4]}],
        "pre": {"resize": "none", "window": 16, "hop": 16},
        "post": {"decoder": "classify", "options": {"activation": "softmax"}},
        "labels": "labels.txt",
        "variants": variants,
        "golden": [{"inputs": "0.npz", "outputs": "0.out.npz", "atol": 0.01}],
        "files": [_listed(folder, name) for name in ("labels.txt", "0.npz", "0.out.npz")],
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def _listed(folder: Path, name: str) -> dict[str, object]:
    data = (folder / name).read_bytes()
    return {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@dataclass
class Faults:
    """Planted faults of every LiteRT model in this process."""

    is_lost: bool = False
    """The next run loses the accelerator; it is back for the one after."""
    is_wrong: bool = False
    """Answers are off by one."""


@contextlib.contextmanager
def planted() -> Iterator[Faults]:
    """Have LiteRT go wrong as the faults say."""
    faults, run = Faults(), LiteRtBackend.run

    def faulty(backend: LiteRtBackend) -> dict[str, Any]:
        if faults.is_lost:
            faults.is_lost = False
            raise AcceleratorLostError("the accelerator was pulled out")
        return {name: array + faults.is_wrong for name, array in run(backend).items()}

    LiteRtBackend.run = faulty
    try:
        yield faults
    finally:
        LiteRtBackend.run = run
