"""Convert a model between ONNX, TensorFlow Lite and OpenVINO."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.quiet import root_logger_kept
from edgekit_optimize.readers.specs import litert
from edgekit_optimize.readers.tools import library, short


def openvino_from(model: Path, xml: Path) -> None:
    """Convert an ONNX or TensorFlow Lite file to OpenVINO IR with full-precision weights.

    Layers keep their names from the source. Those that OpenVINO numbers by a counter of the process are
    renumbered within the model, so that the same model always gives the same bytes.

    Args:
        model: The file to read.
        xml: The file to write; the weights go beside it as ``.bin``.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
        ModelError: OpenVINO cannot convert the model.
    """
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    openvino = library("openvino")
    try:
        with root_logger_kept():
            converted = openvino.convert_model(str(model))
        _number(converted)
        openvino.save_model(converted, str(xml), compress_to_fp16=False)
    except Exception as cause:
        raise ModelError(f"OpenVINO cannot convert {model.name}: {short(cause)}") from cause


def _number(model: Any) -> None:
    for number, operation in enumerate(model.get_ordered_ops()):
        # A folded constant keeps the name of the operation that it replaced.
        kind = operation.get_type_name()
        counted = r"[A-Z]\w*_\d+" if kind == "Constant" else rf"{kind}_\d+"
        if re.fullmatch(counted, operation.get_friendly_name()):
            operation.set_friendly_name(f"{kind}#{number}")


def tflite_from_onnx(model: Path, target: Path, image: str) -> None:
    """Convert a canonical ONNX file to TensorFlow Lite by way of ``Network``, and check that it loads.

    Args:
        model: The file to read.
        target: The file to write.
        image: The name of a channels-first image input, which becomes channels-last; or "".

    Raises:
        ModelError: The model has a node with no equivalent in ``Network`` (named), or LiteRT
            rejects the result.
        BackendUnavailableError: A library is not installed.
    """
    from edgekit_optimize.graph.onnx_network import read_onnx
    from edgekit_optimize.graph.tflite import write_tflite

    library("ai_edge_litert.interpreter")
    target.write_bytes(write_tflite(read_onnx(model, {image} - {""})))
    try:
        litert(target).allocate_tensors()
    except (RuntimeError, ValueError) as cause:
        raise ModelError(f"LiteRT rejects the converted file: {short(cause)}") from cause


def onnx_from_tflite(model: Path, target: Path) -> str:
    """Convert a float TensorFlow Lite file to ONNX and return the tool that did it.

    Raises:
        ModelError: Neither ``Network`` nor an installed tool can express the model; the error
            has both reasons.
    """
    from edgekit_optimize.graph.onnx_file import write_onnx
    from edgekit_optimize.graph.tflite import read_tflite

    library("onnx")
    try:
        target.write_bytes(write_onnx(read_tflite(model.read_bytes())))
    except ModelError as cause:
        reason = cause.message
    else:
        return "edgekit"
    try:
        convert = library("tflite2onnx").convert
    except BackendUnavailableError:
        raise ModelError(
            f"{reason}; tflite2onnx, which may be able to convert it, is not installed"
        ) from None
    try:
        convert(str(model), str(target))
    except Exception as cause:
        raise ModelError(f"{reason}; tflite2onnx: {short(cause)}") from cause
    return "tflite2onnx"
