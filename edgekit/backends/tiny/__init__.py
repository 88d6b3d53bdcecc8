"""The tiny model that proves a backend: y = relu(x @ WEIGHTS + BIASES), 16 numbers in, 4 out."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = tuple(tuple(float((row * 5 + column * 3) % 7 - 3) for column in range(4)) for row in range(16))
"""16 rows of 4 small whole numbers: exact in every precision."""
BIASES = (1.0, -2.0, 3.0, 0.0)
INPUTS = tuple(float(index % 5 - 2) for index in range(16))
"""The input of a proof."""

_FILES = {"litert": "relu.tflite", "onnxruntime": "relu.onnx", "openvino": "relu.xml", "foreign": "relu.onnx"}


def expected() -> tuple[float, ...]:
    """Return the right answer to ``INPUTS``, computed without any library."""
    columns = zip(*WEIGHTS, strict=True)
    return tuple(
        max(0.0, sum(x * w for x, w in zip(INPUTS, column, strict=True)) + bias)
        for column, bias in zip(columns, BIASES, strict=True)
    )


def tiny_model(backend: str) -> Path:
    """Return the tiny model's file for a backend; ``null`` takes any file."""
    return Path(__file__).parent / _FILES.get(backend, "relu.onnx")
