"""Reads an ONNX file as a network: channels-first becomes channels-last, constants are folded.

Tensors keep their ONNX names.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.graph.network import Network
from edgekit_optimize.graph.network_passes import simplified
from edgekit_optimize.graph.onnx_nodes import read_node
from edgekit_optimize.graph.onnx_reading import Reading

_OLDEST_OPSET = 13


def read_onnx(path: Path, channels_last: Collection[str] | None = None) -> Network:
    """Return the network in a float ONNX file.

    Args:
        path: The file, with fixed shapes; opsets before 13 are converted to 13.
        channels_last: Names of the four-axis inputs to convert from (1, channels, height, width) to
            (1, height, width, channels). None: every four-axis input, unless the file itself
            transposes it first. All other inputs and the outputs keep their shape.

    Raises:
        ModelError: The file is damaged or quantised, has an input of free size, or a node with no
            equivalent in ``Network``, which the message names.
        BackendUnavailableError: The package ``onnx`` is not installed.
    """
    reading = Reading(_load(path), channels_last)
    for node in reading.graph.node:
        if reading.is_constant(node):
            reading.fold(node)
        else:
            read_node(reading, node)
    return simplified(reading.network())


def _load(path: Path) -> Any:
    try:
        import onnx
        from onnx import version_converter
    except ImportError as error:
        raise BackendUnavailableError(
            f"reading {path.name} needs the package 'onnx' ({error})",
            hint="pip install 'edgekit-optimize[tools]'",
        ) from error
    try:
        model = onnx.load(str(path))
        opset = max(
            (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0
        )
        return model if opset >= _OLDEST_OPSET else version_converter.convert_version(model, _OLDEST_OPSET)
    except Exception as error:
        raise ModelError(
            f"{path.name}: cannot be read as ONNX of opset {_OLDEST_OPSET} or later: {error}",
            hint="export the model again with a newer opset",
        ) from error
