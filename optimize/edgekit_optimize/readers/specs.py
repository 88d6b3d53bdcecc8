"""Read the tensor specs of an ONNX, TensorFlow Lite or OpenVINO file, and find its image input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

from edgekit.core.errors import ModelError
from edgekit.core.spec import Datatype, TensorSpec
from edgekit_optimize.plan import Layout
from edgekit_optimize.readers.tools import library, short

_OF_NUMPY: Final = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_OF_OPENVINO: Final = {"boolean": "BOOL", "f16": "FP16", "f32": "FP32", "f64": "FP64"} | {
    f"{letter}{bits}": f"{word}{bits}"
    for letter, word in (("i", "INT"), ("u", "UINT"))
    for bits in (8, 16, 32, 64)
}
Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def spec(name: str, datatype: str | None, shape: tuple[int, ...]) -> TensorSpec:
    """Return the spec of a tensor, with its layout if it is an image.

    Raises:
        ModelError: edgekit does not support this data type.
    """
    if datatype is None:
        raise ModelError(f"tensor {name!r} has a data type that edgekit does not support")
    return TensorSpec(name=name, datatype=cast("Datatype", datatype), shape=shape, layout=image_layout(shape))


def image_layout(shape: tuple[int, ...]) -> Layout:
    """Return the layout of an image tensor (four axes, one or three channels); "" for any other.

    >>> image_layout((1, 3, 224, 224)), image_layout((1, 96, 96, 1)), image_layout((1, 8, 8, 64))
    ('NCHW', 'NHWC', '')
    """
    if len(shape) != 4:
        return ""
    if shape[1] in (1, 3) and not (shape[3] in (1, 3) and shape[2] > 3):
        return "NCHW"
    return "NHWC" if shape[3] in (1, 3) else ""


def image_input(inputs: tuple[TensorSpec, ...]) -> tuple[str, Layout]:
    """Return the name and layout of the image input; two empty strings unless there is exactly one."""
    images = [entry for entry in inputs if entry.layout]
    return (images[0].name, images[0].layout) if len(images) == 1 else ("", "")


def onnx_specs(path: Path) -> Specs:
    """Return the inputs and outputs of a canonical ONNX file; -1 for an output dimension of unknown size."""
    onnx = library("onnx")
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(_onnx_spec(value) for value in graph.input), tuple(
        _onnx_spec(value) for value in graph.output
    )


def _onnx_spec(value: Any) -> TensorSpec:
    onnx = library("onnx")
    kind = value.type.tensor_type
    try:
        numpy_name = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, TypeError):
        numpy_name = ""
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else -1 for d in kind.shape.dim)
    return spec(value.name, _OF_NUMPY.get(numpy_name), shape)


def tflite_specs(path: Path) -> Specs:
    """Return the inputs and outputs of a TensorFlow Lite file.

    Raises:
        ModelError: LiteRT cannot read the file.
    """
    interpreter = litert(path)
    return (
        tuple(_tflite_spec(detail) for detail in interpreter.get_input_details()),
        tuple(_tflite_spec(detail) for detail in interpreter.get_output_details()),
    )


def litert(path: Path) -> Any:
    """Open a TensorFlow Lite file with LiteRT, without allocating its tensors.

    Raises:
        ModelError: LiteRT cannot read the file.
        BackendUnavailableError: LiteRT is not installed.
    """
    library_of = library("ai_edge_litert.interpreter")
    try:
        return library_of.Interpreter(model_path=str(path), num_threads=1)
    except (ValueError, RuntimeError, OSError) as cause:
        raise ModelError(f"LiteRT cannot read {path.name}: {short(cause)}") from cause


def _tflite_spec(detail: Any) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    return spec(detail["name"], _OF_NUMPY.get(str(detail["dtype"].__name__)), shape)


def openvino_specs(model: Any) -> Specs:
    """Return the inputs and outputs of a model that OpenVINO has read."""
    return (
        tuple(_openvino_spec(port) for port in model.inputs),
        tuple(_openvino_spec(port) for port in model.outputs),
    )


def _openvino_spec(port: Any) -> TensorSpec:
    shape = tuple(int(d.get_length()) if d.is_static else -1 for d in port.get_partial_shape())
    return spec(
        port_name(port),
        _OF_OPENVINO.get(port.get_element_type().get_type_name()),
        shape,
    )


def port_name(port: Any) -> str:
    """Return the name of an OpenVINO input or output."""
    return str(port.any_name if port.get_names() else port.node.friendly_name)
