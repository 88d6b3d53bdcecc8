"""Run one sample through a model file of any form: the reference execution for numerical checks.

Devices run models through the backends instead. Here: one or two threads, float32, no accelerator,
and no graph optimisation for a source model, so that a check does not depend on what it checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.plan import Form
from edgekit_optimize.readers.specs import litert, port_name
from edgekit_optimize.readers.tools import library, short

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """An opened model: its inputs' names, shapes and types in order, and the function that runs it."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    call: Callable[[Tensors], Tensors]


def open_run(form: Form, path: Path, *, plain: bool = False) -> Run:
    """Open a model file.

    Args:
        form: The file's format.
        path: The file; for OpenVINO the ``.xml``.
        plain: Turn graph optimisations off, if the runtime allows it.

    Raises:
        ModelError: The runtime cannot read or run the file.
        BackendUnavailableError: The runtime is not installed.
    """
    if form == "onnx":
        return _onnx(path, plain=plain)
    return _tflite(path) if form == "tflite" else _openvino(path)


def _onnx(path: Path, *, plain: bool) -> Run:
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if plain:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as cause:
        raise ModelError(f"ONNX Runtime cannot open {path.name}: {short(cause)}") from cause
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]

    def call(feeds: Tensors) -> Tensors:
        return dict(zip(outputs, session.run(outputs, feeds), strict=True))

    return Run(
        tuple(entry.name for entry in inputs),
        tuple(tuple(size if isinstance(size, int) else -1 for size in entry.shape) for entry in inputs),
        tuple(_onnx_dtype(entry.type) for entry in inputs),
        _wrapped(call, path),
    )


def _onnx_dtype(kind: str) -> np.dtype[Any]:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def _tflite(path: Path) -> Run:
    interpreter = litert(path)
    try:
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as cause:
        raise ModelError(f"LiteRT cannot run {path.name}: {short(cause)}") from cause
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def call(feeds: Tensors) -> Tensors:
        for entry in inputs:
            interpreter.set_tensor(entry["index"], feeds[entry["name"]])
        interpreter.invoke()
        return {entry["name"]: interpreter.get_tensor(entry["index"]) for entry in outputs}

    return Run(
        tuple(entry["name"] for entry in inputs),
        tuple(tuple(int(size) for size in entry["shape"]) for entry in inputs),
        tuple(np.dtype(entry["dtype"]) for entry in inputs),
        _wrapped(call, path),
    )


def _openvino(path: Path) -> Run:
    openvino = library("openvino")
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
        request = core.compile_model(model, "CPU", hints).create_infer_request()
    except Exception as cause:
        raise ModelError(f"OpenVINO cannot read {path.name}: {short(cause)}") from cause
    names = tuple(port_name(port) for port in model.inputs)
    outputs = tuple(port_name(port) for port in model.outputs)

    def call(feeds: Tensors) -> Tensors:
        request.infer([feeds[name] for name in names])
        return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(outputs)}

    return Run(
        names,
        tuple(
            tuple(int(d.get_length()) if d.is_static else -1 for d in port.get_partial_shape())
            for port in model.inputs
        ),
        tuple(np.dtype(port.get_element_type().to_dtype()) for port in model.inputs),
        _wrapped(call, path),
    )


def _wrapped(call: Callable[[Tensors], Tensors], path: Path) -> Callable[[Tensors], Tensors]:
    def run(feeds: Tensors) -> Tensors:
        try:
            return call(feeds)
        except Exception as cause:
            raise ModelError(f"{path.name} loads but does not run: {short(cause)}") from cause

    return run


def feeds_for(run: Run, sample: Mapping[str, NDArray[Any]], *, transposed: bool) -> Tensors:
    """Return one sample with the names, layout and types of a model's inputs.

    Args:
        run: The model.
        sample: Arrays by canonical name, in the order of the canonical inputs; each with its batch axis.
        transposed: The model's images have the other layout than the canonical form's.
    """
    values = list(sample.values())
    feeds = {}
    for position, (name, shape, dtype) in enumerate(zip(run.names, run.shapes, run.dtypes, strict=True)):
        value = sample[name] if name in sample else values[position]
        if transposed and value.ndim == 4:
            value = _turned(value, shape)
        feeds[name] = np.asarray(
            value, dtype, order="C"
        )  # unlike ascontiguousarray, this keeps a scalar's rank
    return feeds


def _turned(value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return an image in the other layout; unchanged if only that fits the shape."""
    ways = (value.transpose(0, 2, 3, 1), value, value.transpose(0, 3, 1, 2))
    fitting = [way for way in ways if way.shape[1:] == shape[1:]]
    return fitting[0] if fitting else value
