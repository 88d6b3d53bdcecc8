"""Reads a float TensorFlow Lite file as a network."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.layer import BINARY
from edgekit_optimize.graph.network import WEIGHTED, Array, Layer, Network, fuse_activations
from edgekit_optimize.graph.tflite_schema import ACTIVATIONS, KINDS, schema, unpack

_KINDS: Final = {
    operator: kind
    for operator, kind in KINDS.items()
    if kind not in {"quantize", "dequantize", "transposed_conv"}
}
_READS_CONSTANTS: Final = BINARY | {"concat"}
_RENAMED: Final = {"SQUEEZE": "RESHAPE", "EXPAND_DIMS": "RESHAPE"}
_CONSTANT_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT32": np.dtype("<i4"),
    "INT8": np.dtype("i1"),
}


def read_tflite(data: bytes) -> Network:
    """Return the network in a float TensorFlow Lite file, float16 weights widened to float32.

    Raises:
        ModelError: The file is not TensorFlow Lite, is quantised, or has an operation with
            no equivalent in ``Network``.
    """
    reader = _Reader(data)
    layers = tuple(layer for operator in reader.graph.operators for layer in reader.layers(operator))
    graph = reader.graph
    return fuse_activations(
        Network(
            {reader.name(i): tuple(int(n) for n in graph.tensors[i].shape) for i in graph.inputs},
            layers,
            tuple(reader.name(i) for i in graph.outputs),
        )
    )


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._model = unpack(data)
        generated = schema()
        self.graph = self._model.subgraphs[0]
        self._operators = {code: name for name, code in vars(generated.BuiltinOperator).items()}
        self._types = {code: name for name, code in vars(generated.TensorType).items()}
        self._activations = {
            getattr(generated.ActivationFunctionType, flatbuffer_name): name
            for name, flatbuffer_name in ACTIVATIONS.items()
        }
        self._same = generated.Padding.SAME
        self._widened: dict[int, NDArray[Any]] = {}
        self._added_constants: set[int] = set()

    def name(self, index: int) -> str:
        name_text: str = self.graph.tensors[index].name.decode()
        return name_text

    def layers(self, operator: Any) -> list[Layer]:
        """Return the constants and the layer of an operation; empty if it only widens a constant."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        kind = self._operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [int(index) for index in operator.inputs]
        if kind == "DEQUANTIZE" and (constant := self._constant(inputs[0])) is not None:
            self._widened[int(operator.outputs[0])] = constant.astype(np.float32)
            return []
        kind = _RENAMED.get(kind, kind)
        if kind not in _KINDS:
            raise ModelError(f"operation {kind} is not supported; supported: {', '.join(_KINDS)}")
        output = int(operator.outputs[0])
        fields = self._fields(kind, operator.builtinOptions, inputs, output)
        before = [self._tensor(index) for index in inputs] if _KINDS[kind] in _READS_CONSTANTS else []
        constants = [index for index in inputs if self._constant(index) is not None]
        names = tuple(
            self.name(index) for index in inputs if index >= 0 and (index not in constants or before)
        )
        layer = Layer(_KINDS[kind], names, self.name(output), **fields)  # type: ignore[arg-type]
        return [*filter(None, before), layer]

    def _tensor(self, index: int) -> Layer | None:
        """Return the layer of a constant tensor on the first call, then None."""
        constant = self._constant(index)
        if constant is None or index in self._added_constants:
            return None
        self._added_constants.add(index)
        return Layer("constant", (), self.name(index), weights=np.asarray(constant, np.float32))

    def _fields(self, kind: str, options: Any, inputs: list[int], output: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        have = vars(options) if options is not None else {}
        if "dilationWFactor" in have:
            fields["dilation"] = (have["dilationHFactor"], have["dilationWFactor"])
        if "fusedActivationFunction" in have:
            fields["activation"] = self._activation(kind, have["fusedActivationFunction"])
        if "padding" in have:
            fields["padding"] = "same" if have["padding"] == self._same else "valid"
            fields["stride"] = (have["strideH"], have["strideW"])
        if "filterHeight" in have:
            fields["window"] = (have["filterHeight"], have["filterWidth"])
        if kind == "CONCATENATION":
            fields["axis"] = have["axis"]
        if _KINDS[kind] in WEIGHTED:
            fields["weights"], fields["bias"] = self._parameters(kind, inputs)
        return {**fields, **_plain_fields(have), **self._lists(kind, inputs, output)}

    def _lists(self, kind: str, inputs: list[int], output: int) -> dict[str, Any]:
        """Return the fields given by an operation's constant inputs or its output's shape."""
        fields: dict[str, Any] = {}
        if kind == "PAD":
            fields["pads"] = tuple((int(a), int(b)) for a, b in self._required_constant(inputs[1]))
        if kind in ("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE"):
            shape = tuple(int(size) for size in self.graph.tensors[output].shape)
            fields["shape"] = shape[1:3] if "RESIZE" in kind else shape
        if kind in ("MEAN", "SUM", "REDUCE_MAX", "TRANSPOSE"):
            fields["axes"] = tuple(int(axis) for axis in self._required_constant(inputs[1]).ravel())
        if kind == "SLICE":
            fields["starts"] = tuple(int(start) for start in self._required_constant(inputs[1]))
        return fields

    def _activation(self, kind: str, code: int) -> str:
        if code not in self._activations:
            raise ModelError(f"operation {kind} has an unsupported fused activation")
        return self._activations[code]

    def _parameters(self, kind: str, inputs: list[int]) -> tuple[Array, Array]:
        weights = self._required_constant(inputs[1])
        if weights.dtype != np.float32:
            raise ModelError(f"cannot read a quantised {kind}: weights are {weights.dtype}")
        if len(inputs) > 2 and inputs[2] >= 0:
            return weights, self._required_constant(inputs[2])
        count = weights.shape[3] if kind == "DEPTHWISE_CONV_2D" else weights.shape[0]
        return weights, np.zeros(count, np.float32)

    def _required_constant(self, index: int) -> NDArray[Any]:
        constant = self._constant(index)
        if constant is None:
            raise ModelError(f"tensor {self.name(index)!r} must be a constant")
        return constant

    def _constant(self, index: int) -> NDArray[Any] | None:
        if index in self._widened:
            return self._widened[index]
        tensor = self.graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if index < 0 or data is None or len(data) == 0:
            return None
        kind = self._types[tensor.type]
        if kind not in _CONSTANT_TYPES:
            raise ModelError(f"cannot read a constant of type {kind}")
        shape = () if tensor.shape is None else tuple(tensor.shape)
        return np.frombuffer(bytes(data), _CONSTANT_TYPES[kind]).reshape(shape)


def _plain_fields(have: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of options that mean the same in every operation."""
    fields: dict[str, Any] = {}
    if "keepDims" in have:
        fields["keeps_axes"] = bool(have["keepDims"])
    if "alpha" in have:
        fields["value"] = float(have["alpha"])
    if "blockSize" in have:
        fields["value"] = float(have["blockSize"])
    if "alignCorners" in have:
        aligned, half = have["alignCorners"], have["halfPixelCenters"]
        fields["grid"] = "aligned" if aligned else "half_pixel" if half else "corner"
    return fields
