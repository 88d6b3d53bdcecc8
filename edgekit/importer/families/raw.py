"""Tensors in, tensors out: only where the user says ``--decoder raw``."""

from __future__ import annotations

from edgekit.core.spec import Finding
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import ModelFile


def recognise(file: ModelFile) -> Conclusion | None:
    """Return a bundle of raw tensors under the file's own names, if the user asked for it."""
    if not file.asks_for("raw"):
        return None
    return Conclusion(
        family="raw",
        findings=(Finding("task", "raw", "flag"), Finding("decoder", "raw", "flag")),
        inputs={tensor.name: Input(tensor.name) for tensor in file.inputs},
        outputs={tensor.name: Output(tensor.name) for tensor in file.outputs},
    )
