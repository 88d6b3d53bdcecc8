"""Synthetic input for a model, the same for every variant, to compare answers and to see it run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.base.dtypes import TEXT
from edgekit.core.spec import TensorSpec
from edgekit.model.ready import ReadyModel
from edgekit.pipeline.pre import dequantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.core.ports import Backend


def run_synthetic(ready: ReadyModel, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Run a model on seeded noise and return its outputs as real numbers; texts are left out.

    Outputs have the manifest's names and shapes; if it describes none (a bare model file), their names are
    their positions in the file: ``"0"``, ``"1"``.

    Raises:
        InferenceError: The model failed.
        TensorError: The file does not match the manifest.
    """
    manifest = ready.manifest
    if manifest.inputs:
        random = np.random.default_rng(seed)
        picture = ready.predictor.image_input()
        outputs = ready.predictor.run_golden(
            {
                spec.name: random.integers(0, 256, (1, *picture), np.uint8)
                if picture
                else _noise(random, spec)
                for spec in manifest.data_inputs()
            }
        )
        return {name: array for name, array in outputs.items() if array.dtype != TEXT}
    fill_noise(ready.backend, seed)
    held = ready.backend.run()
    numbers = [(n, s) for n, s in enumerate(ready.backend.outputs) if s.datatype != "BYTES"]
    return {str(n): dequantize(held[spec.name], spec) for n, spec in numbers}


def fill_noise(backend: Backend, seed: int = 0) -> None:
    """Write seeded noise into a backend's inputs: with zeros some kernels would skip work.

    Wide integers are counts or indices into a table that may be short, so they get zeros and ones.
    """
    random = np.random.default_rng(seed)
    for spec in backend.inputs:
        view = backend.view(spec.name)
        if view.dtype.kind == "f":
            view[...] = random.uniform(-1, 1, view.shape)
        elif view.dtype.kind in "iu":
            info = np.iinfo(view.dtype)
            low, high = (max(info.min, -128), min(info.max, 255)) if view.dtype.itemsize < 4 else (0, 2)
            view[...] = random.integers(low, high, view.shape)
        del view


def _noise(random: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    shape = [max(length, 1) for length in spec.shape]
    if spec.datatype.startswith("FP"):
        return random.uniform(-1, 1, shape).astype(np.float32)
    return np.full(shape, "", TEXT) if spec.datatype == "BYTES" else random.integers(0, 2, shape)
