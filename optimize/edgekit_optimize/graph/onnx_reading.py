"""The state of an ONNX import: which network tensor holds each ONNX tensor, with which axis order.

Axes are permuted lazily: each ONNX tensor is recorded as a network tensor and its axis order (``Form``),
and a transposition is added only where an operation needs another order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import Kind, Layer, Shape
from edgekit_optimize.graph.network import Network
from edgekit_optimize.graph.network_ops import shape_of

Axes = tuple[int | None, ...]
IMAGE: Axes = (0, 2, 3, 1)
ROW: Axes = (0, None, 2, 1)
REALS = frozenset({1, 10, 11, 16})  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_WAY_OUT = (
    "use a backend that reads ONNX (onnxruntime, openvino) for this model, or export it without this operator"
)


class Form(NamedTuple):
    """The network tensor that holds an ONNX tensor, and its axis order.

    ``axes[i]`` is the ONNX axis of the network tensor's axis ``i``; None for an axis of length 1 that
    the ONNX tensor does not have.
    """

    tensor: str
    axes: Axes


class Reading:
    """An ONNX graph being imported, node by node."""

    def __init__(self, model: Any, channels_last: Collection[str] | None) -> None:
        from onnx import numpy_helper

        self.model, self.graph = model, model.graph
        self.opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        self.constants: dict[str, NDArray[Any]] = {
            entry.name: numpy_helper.to_array(entry) for entry in self.graph.initializer
        }
        self.forms: dict[str, Form] = {}
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}
        self.inputs: dict[str, Shape] = {}
        self._turned: dict[tuple[str, Axes], str] = {}
        for entry in self.graph.input:
            if entry.name not in self.constants:
                self._add_input(entry, channels_last)

    def network(self) -> Network:
        """Return the imported network, its outputs in the file's axis order."""
        outputs = tuple(entry.name for entry in self.graph.output)
        for name in outputs:
            self._finish(name)
        return Network(self.inputs, tuple(self.layers), outputs)

    def is_constant(self, node: Any) -> bool:
        """Return whether all inputs of a node are constants."""
        return all(name in self.constants for name in node.input if name)

    def shape(self, name: str) -> Shape:
        """Return an ONNX tensor's shape, in the file's axis order."""
        if name in self.constants and name not in self.forms:
            return tuple(int(size) for size in self.constants[name].shape)
        form = self.forms[name]
        sizes = self.shapes[form.tensor]
        size_of = {axis: size for axis, size in zip(form.axes, sizes, strict=True) if axis is not None}
        return tuple(size_of[axis] for axis in sorted(size_of))

    def form(self, name: str) -> Form:
        """Return a tensor's form, adding a constant layer first if it is a constant."""
        if name not in self.forms:
            values = np.asarray(self.constants[name], np.float32)
            self.add("constant", (), name, weights=values)
            self.forms[name] = Form(name, tuple(range(values.ndim)))
        return self.forms[name]

    def plain(self, name: str) -> str:
        """Return the network tensor that holds a tensor in the file's axis order."""
        return self.turned(name, tuple(range(len(self.shape(name)))))

    def turned(self, name: str, axes: Axes) -> str:
        """Return the network tensor that holds a tensor in this axis order, adding layers if needed."""
        form = self.form(name)
        if form.axes == axes:
            return form.tensor
        if (name, axes) not in self._turned:
            self._turned[name, axes] = self._turn(name, form, axes)
        return self._turned[name, axes]

    def _turn(self, name: str, form: Form, axes: Axes) -> str:
        sizes = self.shape(name)
        source_axes = [axis for axis in form.axes if axis is not None]
        target_axes = [axis for axis in axes if axis is not None]
        tensor, shape = form.tensor, tuple(1 if axis is None else sizes[axis] for axis in axes)
        label = "".join("_" if axis is None else str(axis) for axis in axes)
        long_axes = [axis for axis in source_axes if sizes[axis] != 1]
        if long_axes == [axis for axis in target_axes if sizes[axis] != 1]:
            return self.add("reshape", (tensor,), f"{name}/{label}", shape=shape)
        if None in form.axes:
            flat = tuple(sizes[axis] for axis in source_axes)
            tensor = self.add("reshape", (tensor,), f"{name}/{label}/flat", shape=flat)
        order = tuple(source_axes.index(axis) for axis in target_axes)
        suffix = "/order" if None in axes else ""
        tensor = self.add("transpose", (tensor,), f"{name}/{label}{suffix}", axes=order)
        return self.add("reshape", (tensor,), f"{name}/{label}", shape=shape) if None in axes else tensor

    def add(self, kind: Kind, inputs: Sequence[str], output: str, **fields: Any) -> str:
        """Append one layer and return the name of its output."""
        layer = Layer(kind, tuple(inputs), output, **fields)
        self.shapes[output] = shape_of(layer, [self.shapes[name] for name in layer.inputs])
        self.layers.append(layer)
        return output

    def write(self, name: str, tensor: str, axes: Axes) -> None:
        """Record which network tensor holds an ONNX tensor, and its axis order."""
        self.forms[name] = Form(tensor, axes)

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a constant's values; None if the tensor is computed at run time."""
        return self.constants.get(name) if name else None

    def _add_input(self, entry: Any, channels_last: Collection[str] | None) -> None:
        shape = tuple(int(size.dim_value) for size in entry.type.tensor_type.shape.dim)
        if not shape or min(shape) < 1:
            raise ModelError(
                f"input {entry.name!r} has no fixed shape",
                hint="export the model with a batch of 1 and fixed sizes",
            )
        if entry.type.tensor_type.elem_type not in REALS:
            raise ModelError(
                f"input {entry.name!r} has an integer type; only float inputs are supported", hint=_WAY_OUT
            )
        turns = len(shape) == 4 and (
            not self._is_turned_first(entry.name) if channels_last is None else entry.name in channels_last
        )
        axes: Axes = IMAGE if turns else tuple(range(len(shape)))
        self.inputs[entry.name] = tuple(shape[axis] for axis in axes if axis is not None)
        self.shapes[entry.name] = self.inputs[entry.name]
        self.forms[entry.name] = Form(entry.name, axes)

    def _is_turned_first(self, name: str) -> bool:
        readers = [node for node in self.graph.node if name in node.input]
        return bool(readers) and all(node.op_type == "Transpose" for node in readers)

    def fold(self, node: Any) -> None:
        """Evaluate a node whose inputs are all constants, and record its outputs as constants."""
        from onnx.reference import ReferenceEvaluator

        try:
            feeds = {name: self.constants[name] for name in node.input if name}
            results = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, feeds)
        except Exception as error:
            raise unsupported(node, f"constant folding failed: {error}") from error
        self.constants.update(zip(node.output, (np.asarray(values) for values in results), strict=True))

    def _finish(self, name: str) -> None:
        """Ensure that an output of the file exists under its name, in the file's axis order."""
        if name not in self.forms and name not in self.constants:
            raise ModelError(f"no node writes output {name!r}")
        tensor = self.plain(name)
        if tensor == name:
            return
        taken = {layer.output for layer in self.layers} | set(self.inputs)
        if name in taken:  # a tensor of that name exists in another axis order
            aside = f"{name}/inner"
            self._rename(name, aside)
            tensor = aside if tensor == name else tensor
        if tensor in self.inputs or tensor in {entry.name for entry in self.graph.output}:
            self.add("reshape", (tensor,), name, shape=self.shapes[tensor])
        else:
            self._rename(tensor, name)
        self.write(name, name, tuple(range(len(self.shapes[name]))))

    def _rename(self, old: str, new: str) -> None:
        def swap(name: str) -> str:
            return new if name == old else name

        self.layers = [
            replace(
                layer,
                inputs=tuple(swap(name) for name in layer.inputs),
                output=swap(layer.output),
                also=(*layer.also, old) if layer.output == old else layer.also,
            )
            for layer in self.layers
        ]
        self.shapes[new] = self.shapes.pop(old)
        self.forms = {name: Form(swap(form.tensor), form.axes) for name, form in self.forms.items()}
        self._turned = {key: swap(tensor) for key, tensor in self._turned.items()}


def unsupported(node: Any, why: str, hint: str = _WAY_OUT) -> ModelError:
    """Return the error for a node with no equivalent in ``Network``."""
    name = node.name or (node.output[0] if node.output else "?")
    return ModelError(f"node {name!r} (operator {node.op_type}): {why}", hint=hint)
