"""An ONNX file as a network: channels-first becomes channels-last, constants are folded.

The ONNX name of a tensor stays the name of the layer that makes it.
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
        path: The file; opset 13 or later (older ones are brought there), all shapes fixed.
        channels_last: Names of the four-axis inputs to take as (1, height, width, channels) where
            the file has (1, channels, height, width). None stands for every four-axis input but
            those that the file itself turns first. Every other tensor at the ends keeps its shape.

    Raises:
        ModelError: The file is damaged or quantised, has an input of free size, or an operation
            that a ``Network`` cannot say; the message names the node, the hint the way out.
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
