"""Writes a network as an ONNX file: float, or int8 with QuantizeLinear/DequantizeLinear pairs.

Images are channels-first inside the file, as ONNX runtimes expect. The output of a reshape keeps the
network's channels-last order; a Transpose is inserted only where the two orders meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit_optimize.graph.layer import POOLS, same_padding
from edgekit_optimize.graph.network import Layer, Network, Shape, spatial_padding
from edgekit_optimize.graph.onnx_layers import ROWS, dense, unknown
from edgekit_optimize.graph.quantize import Quantized, with_borders

_OPSET: Final = 13  # per-channel DequantizeLinear came with 13; every supported runtime reads it
_IR_VERSION: Final = 8
_Order = Callable[[NDArray[Any]], NDArray[Any]]


def write_onnx(
    network: Network, quantized: Quantized | None = None, *, half_weights: bool = False, name: str = "edgekit"
) -> bytes:
    """Return a network as an ONNX file.

    Four-axis inputs become channels-first; other tensors keep their shape.

    Args:
        network: What to write; its tensor names become the file's.
        quantized: Parameters for an int8 file (uint8 activations and int8 weights, which is fast on
            x86); its inputs and outputs stay float. None for float32.
        half_weights: Store float weights as float16, widened to float32 at load. Lossless only if
            the weights were float16 originally.
        name: The graph name in the file.

    Raises:
        ModelError: The network's shapes are inconsistent, or ONNX has no equivalent of a layer.
    """
    if quantized is not None:
        network, quantized = with_borders(network, quantized)
    writer = _Writer(network, quantized, half_weights=half_weights)
    for layer in network.layers:
        writer.add(layer)
    return writer.finish(name)


def _permuted(shape: Sequence[Any]) -> list[Any]:
    return [shape[0], shape[3], shape[1], shape[2]]


class _Writer:
    """Collects the nodes of the file, and each tensor's channels-first and channels-last names."""

    def __init__(self, network: Network, quantized: Quantized | None, *, half_weights: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._helper, self._numpy, self._types = helper, numpy_helper, TensorProto
        self._network, self._quantized, self._half = network, quantized, half_weights
        self._shapes = network.shapes()
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._image: dict[str, str] = {}
        self._plain: dict[str, str] = {}
        self._constants: dict[str, NDArray[Any]] = {}
        for tensor, shape in network.inputs.items():
            self._write(tensor, tensor, is_image=len(shape) == 4)

    def add(self, layer: Layer) -> None:
        """Append the nodes of one layer.

        Raises:
            ModelError: ONNX has no equivalent of this layer.
        """
        if layer.kind == "constant":
            self._constants[layer.output] = np.asarray(layer.weights, np.float32)
            return
        if layer.kind not in _NODES:
            raise unknown(layer)
        output, is_image = _NODES[layer.kind](self, layer)
        if layer.activation != "none" and not self._is_clamped(layer):
            output = self.activate(output, layer.activation, layer.output)
        self._write(layer.output, output, is_image=is_image)

    def finish(self, name: str) -> bytes:
        for tensor in self._network.outputs:
            self.node("Identity", [self.plain(tensor)], tensor)
        inputs = [
            self._value(tensor, _permuted(shape) if len(shape) == 4 else shape)
            for tensor, shape in self._network.inputs.items()
        ]
        outputs = [self._value(tensor, self._shapes[tensor]) for tensor in self._network.outputs]
        graph = self._helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        opset = self._helper.make_opsetid("", _OPSET)
        model = self._helper.make_model(graph, opset_imports=[opset], producer_name="edgekit")
        model.ir_version = _IR_VERSION
        data: bytes = model.SerializeToString()
        return data

    def shape(self, name: str) -> Shape:
        """Return a tensor's shape, channels-last."""
        return self._shapes[name]

    def is_image(self, name: str) -> bool:
        """Return whether the tensor already exists channels-first."""
        return name in self._image

    def is_constant(self, name: str) -> bool:
        """Return whether the tensor is one of the network's constants."""
        return name in self._constants

    def image(self, name: str) -> str:
        """Return the channels-first name of a tensor, adding a Transpose if it does not exist yet."""
        if name in self._constants and name not in self._image:
            values = self._constants[name]
            channels_first = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(0, 3, 1, 2)
            self._image[name] = self._stored(name, f"{name}/constant/nchw", channels_first)
        if name not in self._image:
            self._image[name] = self.node("Transpose", [self._plain[name]], f"{name}/nchw", perm=[0, 3, 1, 2])
        return self._image[name]

    def plain(self, name: str) -> str:
        """Return the channels-last name of a tensor, adding a Transpose if it does not exist yet."""
        if name in self._constants and name not in self._plain:
            self._plain[name] = self._stored(name, f"{name}/constant", self._constants[name])
        if name not in self._plain:
            self._plain[name] = self.node("Transpose", [self._image[name]], f"{name}/nhwc", perm=[0, 2, 3, 1])
        return self._plain[name]

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node and return the name of its output."""
        node = self._helper.make_node(operator, inputs, [output], name=f"{operator}:{output}", **attributes)
        self._nodes.append(node)
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self._initializers.append(self._numpy.from_array(np.asarray(values, order="C"), name))
        return name

    def activate(self, tensor: str, activation: str, name: str) -> str:
        """Append a ReLU or ReLU6."""
        if activation == "relu":
            return self.node("Relu", [tensor], f"{name}/relu")
        low = self.constant(f"{name}/low", np.float32(0).reshape(()))
        high = self.constant(f"{name}/high", np.float32(6).reshape(()))
        return self.node("Clip", [tensor, low, high], f"{name}/relu6")

    def parameters(self, layer: Layer, order: _Order, axis: int = 0) -> list[str]:
        """Add a layer's weights, converted by ``order`` to ONNX layout, and its bias; return their names.

        ``axis`` is the output-channel axis in ONNX layout.
        """
        name = layer.output
        if self._quantized is not None and layer.output in self._quantized.activations:
            return self._integer_parameters(layer, order, axis)
        weights, bias = layer.parameters()
        if not self._half:
            return [self.constant(f"{name}/w", order(weights)), self.constant(f"{name}/b", bias)]
        stored = self.constant(f"{name}/w16", order(weights).astype(np.float16))
        widened = self.node("Cast", [stored], f"{name}/w", to=self._types.FLOAT)
        return [widened, self.constant(f"{name}/b", bias)]

    def _integer_parameters(self, layer: Layer, order: _Order, axis: int) -> list[str]:
        assert self._quantized is not None
        name = layer.output
        integers, scale, sums = self._quantized.weights(layer)
        source = np.float32(self._quantized.activations[layer.inputs[0]].scale)
        zeros = np.zeros(scale.size)
        names = []
        parts = (("w", order(integers), scale, axis), ("b", sums, scale * source, 0))
        for suffix, values, steps, channels in parts:
            stored = self.constant(f"{name}/{suffix}/q", values)
            scales = self.constant(f"{name}/{suffix}/scale", steps.astype(np.float32))
            zero = self.constant(f"{name}/{suffix}/zero", zeros.astype(values.dtype))
            inputs = [stored, scales, zero]
            names.append(self.node("DequantizeLinear", inputs, f"{name}/{suffix}", axis=channels))
        return names

    def _is_clamped(self, layer: Layer) -> bool:
        """Return whether int8 saturation already implements the activation."""
        if self._quantized is None or layer.output not in self._quantized.activations:
            return False
        meaning = self._quantized.activations[layer.output]
        top = meaning.scale * (127 - meaning.zero_point)
        return meaning.zero_point == -128 and (layer.activation == "relu" or top <= 6.0 + meaning.scale / 2)

    def _write(self, tensor: str, node: str, *, is_image: bool) -> None:
        node = self._rounded(tensor, tensor, node)
        if node == tensor and tensor not in self._network.inputs:
            node = self.node("Identity", [node], f"{tensor}/value")
        (self._image if is_image else self._plain)[tensor] = node

    def _stored(self, tensor: str, name: str, values: NDArray[Any]) -> str:
        return self._rounded(tensor, name, self.constant(name, values))

    def _rounded(self, tensor: str, name: str, node: str) -> str:
        """Add the QuantizeLinear/DequantizeLinear pair of a quantised tensor; leave a float one as it is."""
        if self._quantized is None or tensor not in self._quantized.activations:
            return node
        meaning = self._quantized.activations[tensor]
        scale = self.constant(f"{name}/scale", np.asarray(meaning.scale, np.float32))
        zero = self.constant(f"{name}/zero", np.asarray(meaning.zero_point + 128, np.uint8))
        integers = self.node("QuantizeLinear", [node, scale, zero], f"{name}/q")
        return self.node("DequantizeLinear", [integers, scale, zero], f"{name}/dq")

    def _value(self, name: str, shape: Sequence[int]) -> Any:
        return self._helper.make_tensor_value_info(name, self._types.FLOAT, list(shape))


def _windowed(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    pad_h, pad_w = spatial_padding(layer, writer.shape(layer.inputs[0]))
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel()),
        "strides": list(layer.stride),
        "pads": [pad_h[0], pad_w[0], pad_h[1], pad_w[1]],
    }
    inputs, channels = [writer.image(layer.inputs[0])], writer.shape(layer.inputs[0])[3]
    if layer.kind in POOLS:
        operator = "MaxPool" if layer.kind == "max_pool" else "AveragePool"
        return writer.node(operator, inputs, f"{layer.output}/pool", **attributes), True
    if layer.dilation != (1, 1):
        attributes["dilations"] = list(layer.dilation)
    if layer.kind == "depthwise":
        attributes["group"] = channels
        inputs += writer.parameters(layer, lambda weights: weights.transpose(3, 0, 1, 2))
    else:
        if (groups := channels // layer.parameters()[0].shape[3]) != 1:
            attributes["group"] = groups
        inputs += writer.parameters(layer, lambda weights: weights.transpose(0, 3, 1, 2))
    return writer.node("Conv", inputs, f"{layer.output}/conv", **attributes), True


def _transposed_conv(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    source, pads, output_padding = layer.inputs[0], [(0, 0), (0, 0)], [0, 0]
    if layer.padding == "same":
        sides = list(zip(writer.shape(source)[1:3], layer.kernel(), layer.stride, strict=True))
        pads = [same_padding(size * stride, kernel, stride) for size, kernel, stride in sides]
        output_padding = [max(stride - kernel, 0) for _, kernel, stride in sides]
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel()),
        "strides": list(layer.stride),
        "pads": [pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
        "output_padding": output_padding,
    }
    inputs = [writer.image(source)]
    inputs += writer.parameters(layer, lambda weights: weights.transpose(3, 0, 1, 2), axis=1)
    return writer.node("ConvTranspose", inputs, f"{layer.output}/conv", **attributes), True


def _border(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    """Return the input as it is: the Q/DQ pair added after it does the conversion."""
    is_image = writer.is_image(layer.inputs[0])
    return writer.image(layer.inputs[0]) if is_image else writer.plain(layer.inputs[0]), is_image


def _dense(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    return dense(writer, layer, writer.parameters(layer, lambda weights: weights))


def _pad(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    is_image = writer.is_image(layer.inputs[0])
    pads = _permuted(layer.pads) if is_image else list(layer.pads)
    amounts = np.asarray([before for before, _ in pads] + [after for _, after in pads], np.int64)
    source = writer.image(layer.inputs[0]) if is_image else writer.plain(layer.inputs[0])
    inputs = [source, writer.constant(f"{layer.output}/pads", amounts)]
    if layer.value:
        inputs.append(writer.constant(f"{layer.output}/fill", np.asarray(layer.value, np.float32)))
    return writer.node("Pad", inputs, f"{layer.output}/pad"), is_image


def _reshape(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    shape = writer.constant(f"{layer.output}/shape", np.asarray(layer.shape, np.int64))
    return writer.node("Reshape", [writer.plain(layer.inputs[0]), shape], f"{layer.output}/reshape"), False


def _concat(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    is_image = len(writer.shape(layer.output)) == 4 and all(
        writer.is_image(name) or writer.is_constant(name) for name in layer.inputs
    )
    axis = layer.axis % len(writer.shape(layer.output))
    inputs = [writer.image(name) if is_image else writer.plain(name) for name in layer.inputs]
    if is_image:
        axis = _permuted(range(4)).index(axis)
    return writer.node("Concat", inputs, f"{layer.output}/concat", axis=axis), is_image


def _elementwise(writer: _Writer, layer: Layer) -> tuple[str, bool]:
    source = layer.inputs[0]
    if layer.kind == "softmax":
        return writer.node("Softmax", [writer.plain(source)], f"{layer.output}/softmax", axis=-1), False
    is_image = writer.is_image(source)
    tensor = writer.image(source) if is_image else writer.plain(source)
    return writer.activate(tensor, layer.kind, layer.output), is_image


_NODES: Final[dict[str, Callable[[_Writer, Layer], tuple[str, bool]]]] = {
    **ROWS,
    "conv": _windowed,
    "depthwise": _windowed,
    "max_pool": _windowed,
    "average_pool": _windowed,
    "transposed_conv": _transposed_conv,
    "quantize": _border,
    "dequantize": _border,
    "requantize": _border,
    "dense": _dense,
    "pad": _pad,
    "reshape": _reshape,
    "concat": _concat,
    "relu": _elementwise,
    "relu6": _elementwise,
    "softmax": _elementwise,
}
