"""The tiny model that proves a backend: y = relu(x @ WEIGHTS + BIASES), from 16 numbers to 4."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = tuple(tuple(float((row * 5 + column * 3) % 7 - 3) for column in range(4)) for row in range(16))
"""16 rows of 4 small whole numbers: exact in every precision."""
BIASES = (1.0, -2.0, 3.0, 0.0)
INPUTS = tuple(float(index % 5 - 2) for index in range(16))
"""What a proof feeds."""

_FILES = {"litert": "relu.tflite", "onnxruntime": "relu.onnx", "openvino": "relu.xml", "foreign": "relu.onnx"}


def expected() -> tuple[float, ...]:
    """Return the right answer to ``INPUTS``, worked out without any library."""
    columns = zip(*WEIGHTS, strict=True)
    return tuple(
        max(0.0, sum(x * w for x, w in zip(INPUTS, column, strict=True)) + bias)
        for column, bias in zip(columns, BIASES, strict=True)
    )


def tiny_model(backend: str) -> Path:
    """Return the file of the tiny model that a backend reads; any file does for ``null``."""
    return Path(__file__).parent / _FILES.get(backend, "relu.onnx")
