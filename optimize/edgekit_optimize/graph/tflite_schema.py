"""The TensorFlow Lite flatbuffer schema (from ``ai-edge-litert``), and the operator of each kind of layer."""

from __future__ import annotations

import struct
from typing import Any, Final

from edgekit.core.errors import BackendUnavailableError, ModelError
from edgekit_optimize.graph.layer import Layer

IDENTIFIER: Final = b"TFL3"
SCHEMA_VERSION: Final = 3
SIGNATURE: Final = "serving_default"
# Kind: (operator, version for float, version for int8). Source: TensorFlow Lite,
# tools/versioning/op_version.cc.
OPERATORS: Final = {
    "conv": ("CONV_2D", 1, 3),
    "depthwise": ("DEPTHWISE_CONV_2D", 1, 3),
    "dense": ("FULLY_CONNECTED", 1, 4),
    "transposed_conv": ("TRANSPOSE_CONV", 3, 3),
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
    "sub": ("SUB", 1, 2),
    "mul": ("MUL", 1, 2),
    "div": ("DIV", 1, 1),
    "minimum": ("MINIMUM", 1, 2),
    "maximum": ("MAXIMUM", 1, 2),
    "average_pool": ("AVERAGE_POOL_2D", 1, 2),
    "reduce_max": ("REDUCE_MAX", 1, 2),
    "reduce_sum": ("SUM", 1, 2),
    "transpose": ("TRANSPOSE", 1, 2),
    "slice": ("SLICE", 1, 2),
    "leaky_relu": ("LEAKY_RELU", 1, 2),
    "prelu": ("PRELU", 1, 1),
    "elu": ("ELU", 1, 1),
    "hard_swish": ("HARD_SWISH", 1, 1),
    "tanh": ("TANH", 1, 2),
    "exp": ("EXP", 1, 1),
    "sqrt": ("SQRT", 1, 1),
    "abs": ("ABS", 1, 1),
    "neg": ("NEG", 1, 1),
    "resize_nearest": ("RESIZE_NEAREST_NEIGHBOR", 3, 3),
    "resize_bilinear": ("RESIZE_BILINEAR", 3, 3),
    "depth_to_space": ("DEPTH_TO_SPACE", 1, 1),
    "requantize": ("QUANTIZE", 1, 2),
    "quantize": ("QUANTIZE", 1, 1),
    "dequantize": ("DEQUANTIZE", 2, 2),
}
# Variants of an operator for layers that the plain one cannot express.
STRIDED_SLICE: Final = ("STRIDED_SLICE", 1, 2)
PAD_WITH: Final = ("PADV2", 1, 2)
WIDEN: Final = ("DEQUANTIZE", 3, 3)
KINDS: Final = {operator: kind for kind, (operator, _, _) in OPERATORS.items() if kind != "requantize"}
ACTIVATIONS: Final = {"none": "NONE", "relu": "RELU", "relu6": "RELU6"}


def schema() -> Any:
    """Return the module of generated classes.

    Raises:
        BackendUnavailableError: ``ai-edge-litert`` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BackendUnavailableError(
            f"TensorFlow Lite files need the package 'ai-edge-litert' ({error})",
            hint="pip install 'edgekit-optimize[tools]'",
        ) from error
    return schema_py_generated


def unpack(data: bytes) -> Any:
    """Return a file as the generated ``ModelT``.

    Raises:
        ModelError: It is not a TensorFlow Lite file, or is damaged.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelError("this is not a TensorFlow Lite file: the identifier 'TFL3' is missing")
    try:
        return schema().ModelT.InitFromPackedBuf(bytearray(data), 0)
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"this TensorFlow Lite file is damaged: {error}") from error


def operator_of(layer: Layer) -> tuple[str, int, int]:
    """Return the operator of a layer, and its versions for float and for int8."""
    if layer.kind == "slice" and any(step != 1 for step in layer.steps):
        return STRIDED_SLICE
    if layer.kind == "pad" and layer.value:
        return PAD_WITH
    return OPERATORS[layer.kind]


def with_signature(data: bytes) -> bytes:
    """Return the file with one signature, whose arguments are named like the input and output tensors.

    Any signatures in the file are replaced.
    """
    import flatbuffers

    model, generated = unpack(data), schema()
    graph = model.subgraphs[0]
    signature = generated.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
    signature.inputs = [_argument(generated, graph, index) for index in graph.inputs]
    signature.outputs = [_argument(generated, graph, index) for index in graph.outputs]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(data) + 1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _argument(generated: Any, graph: Any, index: int) -> Any:
    argument = generated.TensorMapT()
    argument.name, argument.tensorIndex = graph.tensors[index].name, int(index)
    return argument
