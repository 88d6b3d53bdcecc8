"""Check a TensorFlow Lite file, which is used unchanged; refuse one that is quantised already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.errors import ModelError
from edgekit_optimize.readers.memory import check_memory
from edgekit_optimize.readers.specs import litert
from edgekit_optimize.readers.tools import short


def check_tflite(path: Path) -> None:
    """Check that a TensorFlow Lite file is complete, float, and has static shapes.

    Raises:
        ModelError: It is not; for a quantised file the error names its first quantised tensor.
        ConfigError: There is too little memory.
        BackendUnavailableError: LiteRT is not installed.
    """
    try:
        with path.open("rb") as file:
            size, mark = path.stat().st_size, file.read(8)
    except OSError as cause:
        raise ModelError(f"cannot read {path}: {cause.strerror}") from cause
    if mark[4:8] != b"TFL3":
        raise ModelError(f"{path.name} is not a TensorFlow Lite file: it lacks the identifier 'TFL3'")
    check_memory(path.name, size)
    interpreter = litert(path)
    for detail in interpreter.get_tensor_details():
        if _is_quantised(detail):
            raise ModelError(
                f"{path.name} is quantised already: tensor {detail['name']!r} is "
                f"{np.dtype(detail['dtype']).name} with a scale",
                hint="give the float model; edgekit makes the quantised ones",
            )
    for detail in interpreter.get_input_details():
        _require_static(detail, path)
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as cause:
        raise ModelError(f"LiteRT cannot run {path.name}: {short(cause)}") from cause


def _is_quantised(detail: Any) -> bool:
    scales = detail["quantization_parameters"]["scales"]
    return np.dtype(detail["dtype"]).kind in "iu" and len(scales) > 0


def _require_static(detail: Any, path: Path) -> None:
    """Refuse free dimensions other than the batch, for which LiteRT uses 1."""
    signature = [int(size) for size in detail["shape_signature"]]
    if any(size < 0 for size in signature[1:]) or (len(signature) == 4 and int(detail["shape"][0]) != 1):
        raise ModelError(
            f"{path.name}: input {detail['name']!r} has shape {signature}: a model for a device has "
            "batch 1 and static shapes",
            hint="convert the model again with a fixed input shape",
        )
