"""Reads foreign model files into ``ModelFile``: one file for each format, without any runtime.

In: a path. Out: the file's inputs and outputs, operators, embedded metadata and labels. No library but
``msgspec`` is needed, so that a device can import.

    file = read_model_file(Path("yolo11n.onnx"))
    file.metadata["task"]
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from edgekit.backends.file_facts import file_facts, mapped
from edgekit.core.errors import BundleError
from edgekit.importer.model_file import FORMATS, ModelFile
from edgekit.importer.readers.beside import labels_beside
from edgekit.importer.readers.onnx import read_onnx
from edgekit.importer.readers.openvino import read_openvino
from edgekit.importer.readers.refused import refuse_foreign
from edgekit.importer.readers.tflite import read_tflite

__all__ = ["read_model_file"]

_READERS = {"onnx": read_onnx, "tflite": read_tflite, "openvino": read_openvino}
_SUFFIXES = {"onnx": ".onnx", "tflite": ".tflite", "openvino": ".xml"}
_IR_VERSION = b"\x08"
"""The tag of ONNX's first field, which exporters write first. Source: onnx.proto3."""


def read_model_file(path: Path) -> ModelFile:
    """Return what a model file declares; the format is judged by its suffix and its first bytes.

    Raises:
        BundleError: It is missing, empty, damaged, or of a format that no runtime of edgekit opens; the
            error names the format and the export command that helps.
    """
    refuse_foreign(path)
    kind = FORMATS[path.suffix.lower()]
    try:
        data = mapped(path)
        file = _READERS[kind](path, data)
    except (struct.error, LookupError, TypeError, OSError, ValueError) as cause:
        other = _format_of(path)
        if other not in ("", kind):
            raise BundleError(
                f"{path}: its content is {other}, its name says {kind}",
                hint=f"rename it to {path.with_suffix(_SUFFIXES[other]).name}",
            ) from cause
        raise BundleError(
            f"{path}: is not a whole {kind} file: {cause or type(cause).__name__}",
            hint="copy or export the file again",
        ) from cause
    precision = file_facts(data, path.suffix.lower()).precision
    return labels_beside(replace(file, precision=precision))


def _format_of(path: Path) -> str:
    """Return the format that a file's first bytes say, or an empty text."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.lstrip().startswith((b"<?xml", b"<net")):
        return "openvino"
    return "onnx" if head.startswith(_IR_VERSION) else ""
