"""TensorFlow Lite files: from a network, float or int8, and back to a network.

The only file that knows the flatbuffer schema (it comes with ``ai-edge-litert``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ModelError
from edgekit.optimize.network import WEIGHTED, Array, Layer, Network, fuse_activations
from edgekit.optimize.quantize import Quantized

_IDENTIFIER: Final = b"TFL3"
_SCHEMA_VERSION: Final = 3
# Kind: (operator, version for float, version for int8). Source: TensorFlow Lite,
# tools/versioning/op_version.cc.
_OPERATORS: Final = {
    "conv": ("CONV_2D", 1, 3),
    "depthwise": ("DEPTHWISE_CONV_2D", 1, 3),
    "dense": ("FULLY_CONNECTED", 1, 4),
    "add": ("ADD", 1, 2),
    "pad": ("PAD", 1, 2),
    "max_pool": ("MAX_POOL_2D", 1, 2),
    "mean": ("MEAN", 1, 2),
    "reshape": ("RESHAPE", 1, 1),
    "concat": ("CONCATENATION", 1, 2),
    "relu": ("RELU", 1, 2),
    "relu6": ("RELU6", 1, 2),
    "softmax": ("SOFTMAX", 1, 2),
    "sigmoid": ("LOGISTIC", 1, 2),
}
_KINDS: Final = {operator: kind for kind, (operator, _, _) in _OPERATORS.items()}
_ACTIVATIONS: Final = {"none": "NONE", "relu": "RELU", "relu6": "RELU6"}
_CONSTANT_TYPES: Final[dict[str, np.dtype[Any]]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT32": np.dtype("<i4"),
    "INT8": np.dtype("i1"),
}


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


# ---------------------------------------------------------------------------------------------
# Writing


def write_tflite(network: Network, quantized: Quantized | None = None, *, name: str = "edgekit") -> bytes:
    """Return a network as a TensorFlow Lite file.

    Args:
        network: What to write; its tensor names become the file's.
        quantized: Parameters for a file that is int8 from its inputs to its outputs; None for
            float32.
        name: What the file says it holds.

    Raises:
        ModelError: The network's shapes do not fit.
    """
    writer = _Writer(network, quantized)
    for layer in network.layers:
        writer.add(layer)
    return writer.finish(name)


class _Writer:
    def __init__(self, network: Network, quantized: Quantized | None) -> None:
        self._schema = _schema()
        self._network = network
        self._shapes = network.shapes()
        self._quantized = quantized
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._tensors: list[Any] = []
        self._index: dict[str, int] = {}
        self._codes: list[Any] = []
        self._operators: list[Any] = []
        for tensor in self._shapes:
            self._index[tensor] = self._activation(tensor)

    def add(self, layer: Layer) -> None:
        """Append one operation with its constants."""
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._code(layer.kind)
        operator.inputs = [*(self._index[name] for name in layer.inputs), *self._constants(layer)]
        operator.outputs = [self._index[layer.output]]
        if options := _options(self._schema, layer):
            kind, operator.builtinOptions = options
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
        self._operators.append(operator)

    def finish(self, name: str) -> bytes:
        import flatbuffers

        graph = self._schema.SubGraphT()
        graph.name = name.encode()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = [self._index[tensor] for tensor in self._network.inputs]
        graph.outputs = [self._index[tensor] for tensor in self._network.outputs]
        model = self._schema.ModelT()
        model.version, model.description = _SCHEMA_VERSION, name.encode()
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [graph], self._buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _activation(self, name: str) -> int:
        if self._quantized is None:
            return self._tensor(name, self._shapes[name], "FLOAT32", 0)
        meaning = self._quantized.activations[name]
        quantization = self._scales([meaning.scale], [meaning.zero_point], 0)
        return self._tensor(name, self._shapes[name], "INT8", 0, quantization)

    def _scales(self, scale: Sequence[float], zero_point: Sequence[int], axis: int) -> Any:
        parameters = self._schema.QuantizationParametersT()
        parameters.scale = np.asarray(scale, np.float32)
        parameters.zeroPoint = np.asarray(zero_point, np.int64)
        parameters.quantizedDimension = axis
        return parameters

    def _tensor(
        self, name: str, shape: Sequence[int], kind: str, buffer: int, quantization: Any = None
    ) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape = name.encode(), np.asarray(shape, np.int32)
        tensor.type, tensor.buffer = getattr(self._schema.TensorType, kind), buffer
        tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _constant(self, name: str, values: NDArray[Any], kind: str, quantization: Any = None) -> int:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, values.shape, kind, len(self._buffers) - 1, quantization)

    def _constants(self, layer: Layer) -> list[int]:
        name = layer.output
        if layer.kind in WEIGHTED:
            return self._parameters(layer)
        if layer.kind == "reshape":
            return [self._constant(f"{name}/shape", np.asarray(layer.shape, np.int32), "INT32")]
        if layer.kind == "pad":
            return [self._constant(f"{name}/pads", np.asarray(layer.pads, np.int32), "INT32")]
        if layer.kind == "mean":
            return [self._constant(f"{name}/axes", np.asarray((1, 2), np.int32), "INT32")]
        return []

    def _parameters(self, layer: Layer) -> list[int]:
        name = layer.output
        if self._quantized is None:
            weights, bias = layer.parameters()
            return [
                self._constant(f"{name}/weights", weights, "FLOAT32"),
                self._constant(f"{name}/bias", bias, "FLOAT32"),
            ]
        integers, scale, sums = self._quantized.weights(layer)
        source = self._quantized.activations[layer.inputs[0]].scale
        axis = 3 if layer.kind == "depthwise" else 0
        zeros = [0] * scale.size
        return [
            self._constant(f"{name}/weights", integers, "INT8", self._scales(list(scale), zeros, axis)),
            self._constant(f"{name}/bias", sums, "INT32", self._scales(list(scale * source), zeros, 0)),
        ]

    def _code(self, kind: str) -> int:
        operator, for_float, for_int8 = _OPERATORS[kind]
        builtin = getattr(self._schema.BuiltinOperator, operator)
        for index, code in enumerate(self._codes):
            if code.builtinCode == builtin:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
        code.version = for_float if self._quantized is None else for_int8
        self._codes.append(code)
        return len(self._codes) - 1


def _options(schema: Any, layer: Layer) -> tuple[str, Any] | None:
    """Return the name of an operation's options and the options themselves."""
    makers: dict[str, tuple[str, Callable[[], Any]]] = {
        "conv": ("Conv2DOptions", schema.Conv2DOptionsT),
        "depthwise": ("DepthwiseConv2DOptions", schema.DepthwiseConv2DOptionsT),
        "dense": ("FullyConnectedOptions", schema.FullyConnectedOptionsT),
        "add": ("AddOptions", schema.AddOptionsT),
        "pad": ("PadOptions", schema.PadOptionsT),
        "max_pool": ("Pool2DOptions", schema.Pool2DOptionsT),
        "mean": ("ReducerOptions", schema.ReducerOptionsT),
        "reshape": ("ReshapeOptions", schema.ReshapeOptionsT),
        "concat": ("ConcatenationOptions", schema.ConcatenationOptionsT),
        "softmax": ("SoftmaxOptions", schema.SoftmaxOptionsT),
    }
    if layer.kind not in makers:
        return None
    name, make = makers[layer.kind]
    options = make()
    values: dict[str, Any] = {
        "fusedActivationFunction": getattr(schema.ActivationFunctionType, _ACTIVATIONS[layer.activation]),
        "padding": getattr(schema.Padding, layer.padding.upper()),
        "strideH": layer.stride[0],
        "strideW": layer.stride[1],
        "filterHeight": layer.window[0],
        "filterWidth": layer.window[1],
        "depthMultiplier": 1,
        "axis": layer.axis,
        "newShape": np.asarray(layer.shape, np.int32),
        "beta": 1.0,
    }
    for key in vars(options).keys() & values.keys():
        setattr(options, key, values[key])
    return name, options


# ---------------------------------------------------------------------------------------------
# Reading


def read_tflite(data: bytes) -> Network:
    """Return the network in a float TensorFlow Lite file, weights of 16 bits widened to 32.

    Raises:
        ModelError: The file is not TensorFlow Lite, is quantised, or has an operation that a
            ``Network`` does not know.
    """
    if data[4:8] != _IDENTIFIER:
        raise ModelError("this is not a TensorFlow Lite file: it lacks the mark 'TFL3'")
    reader = _Reader(data)
    layers = tuple(layer for operator in reader.graph.operators if (layer := reader.layer(operator)))
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
        schema = _schema()
        self._model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
        self.graph = self._model.subgraphs[0]
        self._operators = {code: name for name, code in vars(schema.BuiltinOperator).items()}
        self._types = {code: name for name, code in vars(schema.TensorType).items()}
        self._activations = {
            getattr(schema.ActivationFunctionType, theirs): ours for ours, theirs in _ACTIVATIONS.items()
        }
        self._same = schema.Padding.SAME
        self._widened: dict[int, NDArray[Any]] = {}

    def name(self, index: int) -> str:
        found: str = self.graph.tensors[index].name.decode()
        return found

    def layer(self, operator: Any) -> Layer | None:
        """Return what an operation is here; None for one that only widens a constant."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        kind = self._operators[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [int(index) for index in operator.inputs]
        if kind == "DEQUANTIZE" and (constant := self._constant(inputs[0])) is not None:
            self._widened[int(operator.outputs[0])] = constant.astype(np.float32)
            return None
        if kind not in _KINDS:
            raise ModelError(f"cannot read operation {kind}: a network here has {', '.join(_KINDS)}")
        fields = self._fields(kind, operator.builtinOptions, inputs)
        constants = [index for index in inputs if self._constant(index) is not None]
        tensors = tuple(self.name(index) for index in inputs if index >= 0 and index not in constants)
        output = int(operator.outputs[0])
        if kind == "RESHAPE":
            fields["shape"] = tuple(int(size) for size in self.graph.tensors[output].shape)
        return Layer(_KINDS[kind], tensors, self.name(output), **fields)  # type: ignore[arg-type]

    def _fields(self, kind: str, options: Any, inputs: list[int]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        have = vars(options) if options is not None else {}
        if have.get("dilationWFactor", 1) != 1 or have.get("dilationHFactor", 1) != 1:
            raise ModelError(f"cannot read a dilated {kind}")
        if "fusedActivationFunction" in have:
            fields["activation"] = self._activations[have["fusedActivationFunction"]]
        if "padding" in have:
            fields["padding"] = "same" if have["padding"] == self._same else "valid"
            fields["stride"] = (have["strideH"], have["strideW"])
        if "filterHeight" in have:
            fields["window"] = (have["filterHeight"], have["filterWidth"])
        if kind == "CONCATENATION":
            fields["axis"] = have["axis"]
        if _KINDS[kind] in WEIGHTED:
            fields["weights"], fields["bias"] = self._parameters(kind, inputs)
        if kind == "PAD":
            fields["pads"] = tuple((int(a), int(b)) for a, b in self._wanted(inputs[1]))
        if kind == "MEAN" and sorted(int(axis) for axis in self._wanted(inputs[1]).ravel()) != [1, 2]:
            raise ModelError("cannot read a MEAN that is not over height and width")
        return fields

    def _parameters(self, kind: str, inputs: list[int]) -> tuple[Array, Array]:
        weights = self._wanted(inputs[1])
        if weights.dtype != np.float32:
            raise ModelError(f"cannot read a quantised {kind}: weights are {weights.dtype}")
        if len(inputs) > 2 and inputs[2] >= 0:
            return weights, self._wanted(inputs[2])
        count = weights.shape[3] if kind == "DEPTHWISE_CONV_2D" else weights.shape[0]
        return weights, np.zeros(count, np.float32)

    def _wanted(self, index: int) -> NDArray[Any]:
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
