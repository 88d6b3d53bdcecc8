"""Precision and quantisation of a model file, read from its bytes without any runtime.

OpenVINO and ONNX Runtime do not report the scale and zero point of a quantised input or output.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.backends.file_fields import Table, fields, numbers, read_scalar, texts
from edgekit.core.spec import Precision, Quantization

_TFLITE_MAGIC = b"TFL3"
_NARROW = {3, 9}  # Source: TFLite schema, TensorType UINT8 and INT8.
_INT16 = 7
_FLOATS = {0, 1}
# Source: onnx.proto. Field numbers of the messages that are read.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 1, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP = 1, 2, 4
_TENSOR_NAME = 8
_INTEGER_OPS = {"QLinearConv", "QLinearMatMul", "QGemm", "QuantizeLinear"}
_DYNAMIC_OPS = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"}


@dataclass(frozen=True)
class FileFacts:
    """The precision of a file's layers, and the quantisation of its inputs and outputs.

    ``quantization`` has a row for each input and output with one scale; ``refused`` names those with a
    scale per channel.
    """

    precision: Precision = "fp32"
    quantization: Mapping[str, Quantization] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def file_facts(data: Any, kind: str) -> FileFacts:
    """Return the facts of a model file; a float model's if the bytes are no such file.

    Args:
        data: The whole file: ``bytes`` or a memory map.
        kind: Its suffix: ``.tflite``, ``.onnx`` or ``.xml``.
    """
    try:
        if kind == ".tflite":
            return _tflite(data)
        if kind == ".onnx":
            return _onnx(memoryview(data))
    except (struct.error, LookupError, UnicodeDecodeError, StopIteration):
        return FileFacts()
    return FileFacts("int8" if kind == ".xml" and data.find(b'type="FakeQuantize"') >= 0 else "fp32")


def mapped(path: Path) -> mmap.mmap:
    """Return a memory map of a file that is not empty; it closes with its last reference."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _tflite(data: Any) -> FileFacts:
    """Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3."""
    if bytes(data[4:8]) != _TFLITE_MAGIC:
        return FileFacts()
    model = Table(data, read_scalar(data, "I", 0))
    graph, buffers = model.tables(2)[0], model.tables(4)
    tensors = graph.tables(0)
    quantization, refused = {}, []
    for index in (*graph.values(1, "i"), *graph.values(2, "i")):
        tensor = tensors[index]
        name = bytes(tensor.values(3, "B")).decode()
        parameters = tensor.table(4)
        scales: tuple[Any, ...] = parameters.values(2, "f") if parameters else ()
        if parameters and len(scales) == 1 and tensor.scalar(1, "b") not in _FLOATS:
            zero_point = next(iter(parameters.values(3, "q")), 0)
            quantization[name] = Quantization(scale=float(scales[0]), zero_point=zero_point)
        elif len(scales) > 1:
            refused.append(name)
    return FileFacts(_tflite_precision(tensors, buffers), quantization, tuple(refused))


def _tflite_precision(tensors: list[Table], buffers: list[Table]) -> Precision:
    """Return what the layers compute in: the type of the activations, then of the weights."""
    activations: set[int] = set()
    constants: set[int] = set()
    for tensor in tensors:
        parameters = tensor.table(4)
        if parameters is None or not parameters.values(2, "f"):
            continue
        buffer = buffers[tensor.scalar(2, "I")]
        is_constant = buffer.length(0) > 0 or buffer.scalar(1, "Q") > 1
        (constants if is_constant else activations).add(tensor.scalar(1, "b"))
    if activations & _NARROW:
        return "int8"
    if _INT16 in activations:
        return "int16x8"
    return "dynamic-int8" if constants & _NARROW else "fp32"


def _onnx(data: memoryview) -> FileFacts:
    graph = next((body for number, body in fields(data) if number == _MODEL_GRAPH), None)
    if not isinstance(graph, memoryview):
        return FileFacts()
    constants: dict[str, memoryview] = {}
    borders: set[str] = set()
    nodes: list[tuple[str, list[str], list[str]]] = []
    for number, body in fields(graph):
        if number == _GRAPH_NODE:
            parts = list(fields(body))
            op = next(iter(texts(parts, _NODE_OP)), "")
            nodes.append((op, texts(parts, _NODE_INPUT), texts(parts, _NODE_OUTPUT)))
        elif number == _GRAPH_INITIALIZER:
            constants[texts(fields(body), _TENSOR_NAME)[0]] = body
        elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            borders.add(texts(fields(body), 1)[0])
    quantization, refused = {}, []
    for op, ins, outs in nodes:
        border = ins[0] if op == "DequantizeLinear" else outs[0] if op == "QuantizeLinear" else ""
        if border not in borders or border in constants or ins[1] not in constants:
            continue
        scales = numbers(constants[ins[1]])
        zeros = numbers(constants[ins[2]]) if len(ins) > 2 and ins[2] in constants else (0,)
        if len(scales) == 1:
            quantization[border] = Quantization(scale=float(scales[0]), zero_point=int(zeros[0]))
        else:
            refused.append(border)
    ops = {op for op, _, _ in nodes}
    precision: Precision = "dynamic-int8" if ops & _DYNAMIC_OPS else "fp32"
    return FileFacts("int8" if ops & _INTEGER_OPS else precision, quantization, tuple(refused))
