"""Convert a torch module to TensorFlow Lite with ``litert-torch``, where that is installed.

The fallback for modules that ``Network`` cannot express: it installs 2.5 GB of dependencies.
Source: its documentation, "PyTorch converter"; tried with 0.10.0 and litert-converter 0.5.0.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.readers.tools import library, short
from edgekit_optimize.readers.torch_source import TorchModel


def tflite_from_torch(model: TorchModel, target: Path, image: str) -> None:
    """Write a torch model as a TensorFlow Lite file; the image input, if any, becomes channels-last.

    Args:
        model: The module and its example inputs.
        target: The file to write.
        image: The name of a channels-first image input, or "".

    Raises:
        BackendUnavailableError: ``litert-torch`` is not installed.
        ModelError: It cannot convert the module.
    """
    try:
        converter = library("litert_torch", "torch")
    except BackendUnavailableError as cause:
        raise BackendUnavailableError(
            "litert-torch, which may be able to convert it, is not installed",
            hint="pip install litert-torch (2.5 GB)",
        ) from cause
    turned = [number for number, name in enumerate(model.names) if name == image]
    module = model.module
    example: list[Any] = list(model.example)
    for number in turned:
        example[number] = example[number].permute(0, 2, 3, 1).contiguous()
    try:
        # It prints its progress, but the command's standard output is its JSON result.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if turned:
                module = converter.to_channel_last_io(module, args=turned).eval()
            converter.convert(module, tuple(example)).export(str(target))
    except Exception as cause:
        raise ModelError(f"litert-torch cannot convert the module: {short(cause)}") from cause
