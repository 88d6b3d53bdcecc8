"""Convert a Keras model to TensorFlow Lite with TensorFlow's own converter, where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.readers.runs import Run, Tensors
from edgekit_optimize.readers.tools import short


def _tensorflow() -> Any:
    try:
        return importlib.import_module("tensorflow")
    except ImportError as cause:
        raise BackendUnavailableError(
            "reading Keras models needs TensorFlow, which is not installed",
            hint="pip install tensorflow-cpu, or convert the model to .tflite or .onnx where it was trained",
        ) from cause


def tflite_from_keras(path: Path, target: Path) -> None:
    """Write a Keras file (``.keras``, ``.h5``) or a SavedModel folder as a float TensorFlow Lite file.

    Raises:
        BackendUnavailableError: TensorFlow is not installed.
        ModelError: TensorFlow cannot read or convert the model.
    """
    tensorflow = _tensorflow()
    try:
        # It prints a summary, but the command's standard output is its JSON result.
        with contextlib.redirect_stdout(io.StringIO()):
            target.write_bytes(_converter(tensorflow, path).convert())
    except Exception as cause:
        raise ModelError(f"TensorFlow cannot convert {path.name}: {short(cause)}") from cause


def _converter(tensorflow: Any, path: Path) -> Any:
    if path.is_dir():
        return tensorflow.lite.TFLiteConverter.from_saved_model(str(path))
    model = tensorflow.keras.models.load_model(str(path), compile=False)
    return tensorflow.lite.TFLiteConverter.from_keras_model(model)


def keras_run(path: Path) -> Run:
    """Open a Keras model for the numerical check; inputs and outputs are matched by position.

    Raises:
        BackendUnavailableError: TensorFlow is not installed.
        ModelError: TensorFlow cannot read the model.
    """
    tensorflow = _tensorflow()
    try:
        loaded = tensorflow.saved_model.load(str(path)) if path.is_dir() else None
        model = loaded.signatures["serving_default"] if loaded is not None else None
        if model is None:
            model = tensorflow.keras.models.load_model(str(path), compile=False)
            entries = [(tensor.name, tensor.shape, tensor.dtype) for tensor in model.inputs]
        else:
            signature = model.structured_input_signature[1]
            entries = [
                (name, signature[name].shape, signature[name].dtype.name) for name in sorted(signature)
            ]
    except Exception as cause:
        raise ModelError(f"TensorFlow cannot read {path.name}: {short(cause)}") from cause

    def call(feeds: Tensors) -> Tensors:
        values = {name: tensorflow.constant(value) for name, value in feeds.items()}
        argument = next(iter(values.values())) if len(values) == 1 else values
        outputs = model(**values) if loaded is not None else model(argument)
        if isinstance(outputs, dict):
            return {name: np.asarray(outputs[name]) for name in outputs}
        many = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return {f"output_{number}": np.asarray(value) for number, value in enumerate(many)}

    return Run(
        tuple(name for name, _, _ in entries),
        tuple(tuple(1 if size is None else int(size) for size in shape) for _, shape, _ in entries),
        tuple(np.dtype(str(dtype)) for _, _, dtype in entries),
        call,
    )
