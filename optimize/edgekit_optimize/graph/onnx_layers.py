"""ONNX nodes for element-wise, reduction and reordering layers; ``onnx_file`` looks them up in ``ROWS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import Layer, Shape

Written = tuple[str, bool]
"""The output tensor of a layer's nodes, and whether it is channels-first."""

# Channels-last image axis to channels-first axis.
_FIRST: Final = (0, 2, 3, 1)


class Nodes(Protocol):
    """The writer, as the functions in ``ROWS`` use it."""

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape, channels-last."""
        ...

    def is_image(self, name: str) -> bool:
        """Return whether the tensor already exists channels-first."""
        ...

    def is_constant(self, name: str) -> bool:
        """Return whether the tensor is one of the network's constants."""
        ...

    def image(self, name: str) -> str:
        """Return the channels-first name of a tensor."""
        ...

    def plain(self, name: str) -> str:
        """Return the channels-last name of a tensor."""
        ...

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node and return the name of its output."""
        ...

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        ...


def joined(writer: Nodes, layer: Layer) -> Written:
    """Write an element-wise layer of two tensors, with broadcasting."""
    shapes = [writer.shape(name) for name in layer.inputs]
    is_four_axes = all(
        len(shape) == 4 or writer.is_constant(name) for shape, name in zip(shapes, layer.inputs, strict=True)
    )
    is_image = is_four_axes and any(
        writer.is_image(name) and not writer.is_constant(name) for name in layer.inputs
    )
    inputs = [writer.image(name) if is_image else writer.plain(name) for name in layer.inputs]
    operator = _JOINS[layer.kind]
    return writer.node(operator, inputs, f"{layer.output}/{layer.kind}"), is_image


def pointwise(writer: Nodes, layer: Layer) -> Written:
    """Write an element-wise layer of one tensor."""
    source = layer.inputs[0]
    is_image = writer.is_image(source)
    tensor = writer.image(source) if is_image else writer.plain(source)
    operator, attributes = _POINTWISE[layer.kind](layer)
    return writer.node(operator, [tensor], f"{layer.output}/{layer.kind}", **attributes), is_image


def reduced(writer: Nodes, layer: Layer) -> Written:
    """Write a mean, sum or maximum over some axes."""
    source, shape = layer.inputs[0], writer.shape(layer.inputs[0])
    axes = layer.reduced(shape)
    is_image = writer.is_image(source)
    onnx_axes = sorted(_FIRST[axis] for axis in axes) if is_image else list(axes)
    tensor = writer.image(source) if is_image else writer.plain(source)
    name = f"{layer.output}/{layer.kind}"
    if layer.kind == "mean" and is_image and axes == (1, 2):
        output = writer.node("GlobalAveragePool", [tensor], name)
    elif layer.kind == "reduce_sum":  # since opset 13 ReduceSum takes its axes as an input, unlike the others
        amounts = writer.constant(f"{layer.output}/axes", np.asarray(onnx_axes, np.int64))
        output = writer.node("ReduceSum", [tensor, amounts], name, keepdims=1)
    else:
        operator = "ReduceMean" if layer.kind == "mean" else "ReduceMax"
        output = writer.node(operator, [tensor], name, axes=onnx_axes, keepdims=1)
    if layer.keeps_axes:
        return output, is_image
    if is_image and 3 not in axes and not {1, 2} <= set(axes):  # the remaining axes keep the network's order
        output = writer.node("Transpose", [output], f"{layer.output}/nhwc", perm=[0, 2, 3, 1])
    return _reshaped(writer, layer, output), False


def _reshaped(writer: Nodes, layer: Layer, tensor: str) -> str:
    shape = writer.constant(f"{layer.output}/shape", np.asarray(writer.shape(layer.output), np.int64))
    return writer.node("Reshape", [tensor, shape], f"{layer.output}/flat")


def transposed(writer: Nodes, layer: Layer) -> Written:
    """Write a transposition; none is needed if the tensor already exists in that order."""
    if layer.axes == (0, 3, 1, 2) and writer.is_image(layer.inputs[0]):
        return writer.image(layer.inputs[0]), False
    if layer.axes == (0, 2, 3, 1) and not writer.is_image(layer.inputs[0]):
        return writer.plain(layer.inputs[0]), True
    source = writer.plain(layer.inputs[0])
    return writer.node("Transpose", [source], f"{layer.output}/transpose", perm=list(layer.axes)), False


def sliced(writer: Nodes, layer: Layer) -> Written:
    """Write a slice."""
    source = layer.inputs[0]
    is_image = writer.is_image(source)
    steps = layer.steps or (1,) * len(layer.starts)
    ends = [
        start + (size - 1) * step + 1
        for start, size, step in zip(layer.starts, layer.shape, steps, strict=True)
    ]
    axes = range(len(layer.starts))
    lists = {"starts": layer.starts, "ends": ends, "axes": [_FIRST[a] if is_image else a for a in axes]}
    inputs = [writer.image(source) if is_image else writer.plain(source)]
    for name, values in {**lists, "steps": steps}.items():
        inputs.append(writer.constant(f"{layer.output}/{name}", np.asarray(values, np.int64)))
    return writer.node("Slice", inputs, f"{layer.output}/slice"), is_image


def resized(writer: Nodes, layer: Layer) -> Written:
    """Write a resize of an image."""
    source = writer.image(layer.inputs[0])
    shape = writer.shape(layer.output)
    sizes = writer.constant(f"{layer.output}/sizes", np.asarray([shape[0], shape[3], *shape[1:3]], np.int64))
    attributes: dict[str, Any] = {
        "mode": "linear" if layer.kind == "resize_bilinear" else "nearest",
        "coordinate_transformation_mode": _GRIDS[layer.grid],
    }
    if layer.kind == "resize_nearest":
        attributes["nearest_mode"] = "floor" if layer.grid == "corner" else "round_prefer_ceil"
    return writer.node("Resize", [source, "", "", sizes], f"{layer.output}/resize", **attributes), True


def spread(writer: Nodes, layer: Layer) -> Written:
    """Write a depth-to-space layer."""
    source = writer.image(layer.inputs[0])
    block = int(layer.value)
    return writer.node("DepthToSpace", [source], f"{layer.output}/spread", blocksize=block, mode="DCR"), True


def dense(writer: Nodes, layer: Layer, parameters: Sequence[str]) -> Written:
    """Write a dense layer from the names of its weights (out, in) and bias."""
    source = writer.plain(layer.inputs[0])
    weights, bias = parameters
    name = f"{layer.output}/gemm"
    if len(writer.shape(layer.inputs[0])) == 2:
        return writer.node("Gemm", [source, weights, bias], name, transB=1), False
    transposed_weights = writer.node("Transpose", [weights], f"{layer.output}/turned", perm=[1, 0])
    product = writer.node("MatMul", [source, transposed_weights], f"{layer.output}/matmul")
    return writer.node("Add", [product, bias], name), False


def unknown(layer: Layer) -> ModelError:
    """Return the error for a kind of layer with no ONNX equivalent here."""
    return ModelError(f"layer {layer.output!r} ({layer.kind}) cannot be written as ONNX")


_GRIDS: Final = {"corner": "asymmetric", "half_pixel": "half_pixel", "aligned": "align_corners"}
_JOINS: Final = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "minimum": "Min",
    "maximum": "Max",
    "prelu": "PRelu",
}
_POINTWISE: Final[dict[str, Callable[[Layer], tuple[str, dict[str, Any]]]]] = {
    "sigmoid": lambda _layer: ("Sigmoid", {}),
    "tanh": lambda _layer: ("Tanh", {}),
    "exp": lambda _layer: ("Exp", {}),
    "sqrt": lambda _layer: ("Sqrt", {}),
    "abs": lambda _layer: ("Abs", {}),
    "neg": lambda _layer: ("Neg", {}),
    "elu": lambda _layer: ("Elu", {"alpha": 1.0}),
    "leaky_relu": lambda layer: ("LeakyRelu", {"alpha": layer.value}),
}


def _hard_swish(writer: Nodes, layer: Layer) -> Written:
    """Write ``x * clip(x + 3, 0, 6) / 6``, since ONNX has ``HardSwish`` only from opset 14."""
    source = layer.inputs[0]
    is_image = writer.is_image(source)
    tensor = writer.image(source) if is_image else writer.plain(source)
    gate = writer.node("HardSigmoid", [tensor], f"{layer.output}/gate", alpha=1 / 6, beta=0.5)
    return writer.node("Mul", [tensor, gate], f"{layer.output}/hard_swish"), is_image


ROWS: Final[dict[str, Callable[[Any, Layer], Written]]] = {
    **dict.fromkeys(_JOINS, joined),
    **dict.fromkeys(_POINTWISE, pointwise),
    **dict.fromkeys(("mean", "reduce_max", "reduce_sum"), reduced),
    **dict.fromkeys(("resize_nearest", "resize_bilinear"), resized),
    "transpose": transposed,
    "slice": sliced,
    "depth_to_space": spread,
    "hard_swish": _hard_swish,
}
"""The function that writes each kind of layer."""
