"""Read an OpenVINO IR, which cannot be converted back to ONNX or TensorFlow Lite."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgekit.core.errors import ModelError, UsageError
from edgekit_optimize.readers.memory import check_memory
from edgekit_optimize.readers.onnx_shapes import Shape
from edgekit_optimize.readers.specs import port_name
from edgekit_optimize.readers.tools import library, short

MISSING: Final = "OpenVINO IR cannot be converted to it: give the model that the IR was made from"


def static_openvino(path: Path, xml: Path, shapes: Mapping[str, Shape]) -> Any:
    """Rewrite an IR with static shapes in full precision, and return the model.

    Raises:
        ModelError: The file is not an IR, its weights are missing, it is quantised, or a
            dimension stays free.
        UsageError: ``shapes`` does not fit.
        ConfigError: There is too little memory.
        BackendUnavailableError: OpenVINO is not installed.
    """
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    openvino = library("openvino")
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        if not file.is_file():
            raise ModelError(f"{file} does not exist; OpenVINO's format is two files, .xml and .bin")
    check_memory(path.name, path.stat().st_size + weights.stat().st_size)
    try:
        model = openvino.Core().read_model(str(path))
    except Exception as cause:
        raise ModelError(f"OpenVINO cannot read {path.name}: {short(cause)}") from cause
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "FakeQuantize":
            raise ModelError(
                f"{path.name} is quantised already: layer {operation.get_friendly_name()!r} (FakeQuantize)",
                hint="give the float model; edgekit makes the quantised ones",
            )
    _fix(model, shapes, path.name)
    openvino.save_model(model, str(xml), compress_to_fp16=False)
    return model


def _fix(model: Any, shapes: Mapping[str, Shape], what: str) -> None:
    ports = {port_name(port): port for port in model.inputs}
    requested = dict(shapes)
    if "" in requested and len(ports) == 1:
        requested[next(iter(ports))] = requested.pop("")
    unknown = sorted(requested.keys() - ports.keys())
    if unknown:
        raise UsageError(f"{what} has no input {unknown[0]!r}; its inputs are {', '.join(ports)}")
    static = {}
    for name, port in ports.items():
        dims = list(port.get_partial_shape())
        if name not in requested and dims and not dims[0].is_static:
            dims[0] = 1
        free = [d for d in dims if not isinstance(d, int) and not d.is_static]
        if name not in requested and free:
            raise ModelError(
                f"{what}: input {name!r} is {port.get_partial_shape()}: its free dimensions must be fixed",
                hint=f"--shape {name}=1,3,224,224",
            )
        static[port] = list(requested.get(name, [d if isinstance(d, int) else d.get_length() for d in dims]))
    try:
        model.reshape(static)
    except Exception as cause:
        raise UsageError(f"{what} cannot take these shapes: {short(cause)}") from cause
