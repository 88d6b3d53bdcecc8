"""Writes a network as a TensorFlow Lite file: float, float16 weights, int8, or int8 with float layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit_optimize.graph.layer import REDUCTIONS, RESIZES
from edgekit_optimize.graph.network import WEIGHTED, Layer, Network, Shape
from edgekit_optimize.graph.quantize import Quantized, with_borders
from edgekit_optimize.graph.tflite_schema import (
    ACTIVATIONS,
    IDENTIFIER,
    SCHEMA_VERSION,
    WIDEN,
    operator_of,
    schema,
)

_HALF_MAX = float(np.finfo(np.float16).max)


def write_tflite(
    network: Network, quantized: Quantized | None = None, *, half_weights: bool = False, name: str = "edgekit"
) -> bytes:
    """Return a network as a TensorFlow Lite file.

    Args:
        network: What to write; its tensor names become the file's.
        quantized: Parameters for a file that is int8 from its inputs to its outputs, except for the
            layers left in float; None for float32.
        half_weights: Store weights as float16, widened to float32 at load. Weights beyond the
            float16 range stay float32.
        name: The graph name and description in the file.

    Raises:
        ModelError: The network's shapes are inconsistent.
        BackendUnavailableError: ``ai-edge-litert`` is not installed.
    """
    if quantized is not None:
        network, quantized = with_borders(network, quantized)
    writer = _Writer(network, quantized, half_weights=half_weights)
    for layer in network.layers:
        writer.add(layer)
    return writer.finish(name)


class _Writer:
    def __init__(self, network: Network, quantized: Quantized | None, *, half_weights: bool) -> None:
        self._schema = schema()
        self._network = network
        self._shapes = network.shapes()
        self._quantized, self._half = quantized, half_weights
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._tensors: list[Any] = []
        self._index: dict[str, int] = {}
        self._codes: list[Any] = []
        self._operators: list[Any] = []
        constants = {layer.output: layer for layer in network.layers if layer.kind == "constant"}
        for tensor in self._shapes:
            self._index[tensor] = (
                self._values(constants[tensor]) if tensor in constants else self._activation(tensor)
            )

    def add(self, layer: Layer) -> None:
        """Append one operation with its constants."""
        if layer.kind == "constant":
            return
        operator, for_float, for_int8 = operator_of(layer)
        version = for_int8 if self._is_integer(layer.inputs[0]) else for_float
        inputs = [*(self._index[name] for name in layer.inputs), *self._constants(layer)]
        if layer.kind == "transposed_conv":  # the only operation whose data input is not the first
            size = np.asarray(self._shapes[layer.output], np.int32)
            inputs = [self._constant(f"{layer.output}/size", size, "INT32"), inputs[1], inputs[0], inputs[2]]
        options = _options(self._schema, layer, [self._shapes[name] for name in layer.inputs])
        self._operate(operator, version, inputs, self._index[layer.output], options)

    def finish(self, name: str) -> bytes:
        import flatbuffers

        graph = self._schema.SubGraphT()
        graph.name = name.encode()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs = [self._index[tensor] for tensor in self._network.inputs]
        graph.outputs = [self._index[tensor] for tensor in self._network.outputs]
        model = self._schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, name.encode()
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [graph], self._buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _operate(
        self,
        operator: str,
        version: int,
        inputs: Sequence[int],
        output: int,
        options: tuple[str, Any] | None = None,
    ) -> None:
        operation = self._schema.OperatorT()
        operation.opcodeIndex = self._code(operator, version)
        operation.inputs, operation.outputs = list(inputs), [output]
        if options:
            kind, operation.builtinOptions = options
            operation.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
        self._operators.append(operation)

    def _is_integer(self, tensor: str) -> bool:
        return self._quantized is not None and tensor in self._quantized.activations

    def _activation(self, name: str) -> int:
        if self._quantized is None or name not in self._quantized.activations:
            return self._tensor(name, self._shapes[name], "FLOAT32", 0)
        meaning = self._quantized.activations[name]
        quantization = self._scales([meaning.scale], [meaning.zero_point], 0)
        return self._tensor(name, self._shapes[name], "INT8", 0, quantization)

    def _values(self, layer: Layer) -> int:
        """Add a constant tensor that operations read as one of their inputs."""
        assert layer.weights is not None
        if self._quantized is None or layer.output not in self._quantized.activations:
            return self._constant(layer.output, layer.weights, "FLOAT32")
        meaning = self._quantized.activations[layer.output]
        quantization = self._scales([meaning.scale], [meaning.zero_point], 0)
        return self._constant(layer.output, meaning.encode(layer.weights), "INT8", quantization)

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
        if layer.kind in WEIGHTED:
            return self._parameters(layer)
        rows = {"pads": layer.pads} if layer.kind == "pad" else {}
        lists: dict[str, Sequence[Any]] = {**rows, **_lists(layer, self._shapes[layer.inputs[0]])}
        indices = [
            self._constant(f"{layer.output}/{name}", np.asarray(values, np.int32), "INT32")
            for name, values in lists.items()
        ]
        return [*indices, self._fill(layer)] if layer.kind == "pad" and layer.value else indices

    def _fill(self, layer: Layer) -> int:
        value, name = np.asarray([layer.value], np.float32), f"{layer.output}/fill"
        if self._quantized is None or layer.output not in self._quantized.activations:
            return self._constant(name, value, "FLOAT32")
        meaning = self._quantized.activations[layer.output]
        quantization = self._scales([meaning.scale], [meaning.zero_point], 0)
        return self._constant(name, meaning.encode(value), "INT8", quantization)

    def _parameters(self, layer: Layer) -> list[int]:
        name = layer.output
        if self._quantized is None or name not in self._quantized.activations:
            weights, bias = layer.parameters()
            return [self._real(f"{name}/weights", weights), self._real(f"{name}/bias", bias)]
        integers, scale, sums = self._quantized.weights(layer)
        source = self._quantized.activations[layer.inputs[0]].scale
        axis = 3 if layer.kind == "depthwise" else 0
        if not self._quantized.has_channels(layer):
            axis, scale = 0, scale[:1]
        zeros = [0] * scale.size
        return [
            self._constant(f"{name}/weights", integers, "INT8", self._scales(list(scale), zeros, axis)),
            self._constant(f"{name}/bias", sums, "INT32", self._scales(list(scale * source), zeros, 0)),
        ]

    def _real(self, name: str, values: NDArray[np.float32]) -> int:
        if not self._half or np.abs(values).max(initial=0.0) > _HALF_MAX:
            return self._constant(name, values, "FLOAT32")
        stored = self._constant(f"{name}/16", values.astype(np.float16), "FLOAT16")
        widened = self._tensor(name, values.shape, "FLOAT32", 0)
        self._operate(WIDEN[0], WIDEN[1], [stored], widened)
        return widened

    def _code(self, operator: str, version: int) -> int:
        builtin = getattr(self._schema.BuiltinOperator, operator)
        for index, code in enumerate(self._codes):
            if code.builtinCode == builtin and code.version == version:
                return index
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
        code.version = version
        self._codes.append(code)
        return len(self._codes) - 1


def _lists(layer: Layer, shape: Shape) -> dict[str, Sequence[int]]:
    """Return an operation's constant integer inputs, by name."""
    by_kind: dict[str, tuple[str, Sequence[int]]] = {
        "reshape": ("shape", layer.shape),
        "transpose": ("order", layer.axes),
        **dict.fromkeys(RESIZES, ("size", layer.shape)),
    }
    if layer.kind in REDUCTIONS:
        return {"axes": layer.reduced(shape)}
    if layer.kind != "slice":
        return dict([by_kind[layer.kind]]) if layer.kind in by_kind else {}
    if operator_of(layer)[0] == "SLICE":
        return {"starts": layer.starts, "sizes": layer.shape}
    ends = [
        start + (size - 1) * step + 1
        for start, size, step in zip(layer.starts, layer.shape, layer.steps, strict=True)
    ]
    return {"starts": layer.starts, "ends": ends, "steps": layer.steps}


_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "CONCATENATION": "ConcatenationOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SLICE": "SliceOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
}


def _options(generated: Any, layer: Layer, shapes: Sequence[Shape]) -> tuple[str, Any] | None:
    """Return the name and the value of an operation's builtin options; None if it has none."""
    name = _OPTIONS.get(operator_of(layer)[0])
    if name is None:
        return None
    options = getattr(generated, f"{name}T")()
    getters: dict[str, Callable[[], Any]] = {
        "fusedActivationFunction": lambda: getattr(
            generated.ActivationFunctionType, ACTIVATIONS[layer.activation]
        ),
        "padding": lambda: getattr(generated.Padding, layer.padding.upper()),
        "strideH": lambda: layer.stride[0],
        "strideW": lambda: layer.stride[1],
        "dilationHFactor": lambda: layer.dilation[0],
        "dilationWFactor": lambda: layer.dilation[1],
        "filterHeight": lambda: layer.window[0],
        "filterWidth": lambda: layer.window[1],
        "depthMultiplier": lambda: layer.parameters()[1].size // shapes[0][3],
        "keepNumDims": lambda: len(shapes[0]) != 2,
        "keepDims": lambda: layer.keeps_axes,
        "axis": lambda: layer.axis,
        "newShape": lambda: np.asarray(layer.shape, np.int32),
        "alignCorners": lambda: layer.grid == "aligned",
        "halfPixelCenters": lambda: layer.grid == "half_pixel",
        "blockSize": lambda: int(layer.value),
        "alpha": lambda: layer.value,
        "beta": lambda: 1.0,
    }
    for key in vars(options).keys() & getters.keys():
        setattr(options, key, getters[key]())
    return name, options
