"""Converts an ONNX file to OpenVINO IR."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.core.errors import BackendUnavailableError, ModelLoadError
from edgekit_optimize.quiet import root_logger_kept


def write_openvino(onnx: Path, xml: Path, *, half_weights: bool = False) -> tuple[Path, Path]:
    """Convert an ONNX file to OpenVINO IR, an ``.xml`` and a ``.bin`` file.

    Args:
        onnx: The model to read.
        xml: The file to write; the weights are written next to it as ``.bin``.
        half_weights: Store weights as float16 (the compute precision is chosen at load).

    Returns:
        The topology (``.xml``) and the weights (``.bin``).

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
        ModelLoadError: OpenVINO cannot read the file.
    """
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    try:
        import openvino
    except ImportError as cause:
        raise BackendUnavailableError(
            "OpenVINO is not installed", hint="pip install 'edgekit-optimize[tools]'"
        ) from cause
    try:
        with root_logger_kept():
            model = openvino.convert_model(str(onnx))
        for number, operation in enumerate(model.get_ordered_ops()):
            # OpenVINO numbers them per process; reset so that the same model gives the same bytes.
            operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
        openvino.save_model(model, str(xml), compress_to_fp16=half_weights)
    except Exception as cause:
        raise ModelLoadError(f"OpenVINO cannot convert {onnx.name}: {cause}") from cause
    return xml, xml.with_suffix(".bin")
