"""A small two-layer network with made-up weights, written in each runtime's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

INPUTS, HIDDEN, OUTPUTS = 24, 16, 5
TOLERANCE = 1e-5
"""float32, two dot products of at most 24 terms of size 1: runtimes add in another order."""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "w1": rng.normal(size=(INPUTS, HIDDEN)).astype(np.float32) / 5,
        "b1": rng.normal(size=HIDDEN).astype(np.float32),
        "w2": rng.normal(size=(HIDDEN, OUTPUTS)).astype(np.float32) / 4,
        "b2": rng.normal(size=OUTPUTS).astype(np.float32),
    }


def sample(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, INPUTS)).astype(np.float32)


def reference(x: np.ndarray) -> np.ndarray:
    w = weights()
    return np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]


def write_onnx(path: Path, batch: int | str = "batch") -> Path:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
            helper.make_node("Relu", ["a"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, OUTPUTS])],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    return save_onnx(path, graph)


def save_onnx(path: Path, graph: Any, opset: int = 13) -> Path:
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_ir(path: Path) -> Path:
    from edgekit.backends.openvino import import_openvino

    openvino = import_openvino()
    source = write_onnx(path.with_suffix(".onnx"))
    openvino.save_model(openvino.Core().read_model(str(source)), str(path), compress_to_fp16=False)
    return path


def write_tflite(path: Path, *, free_batch: bool = False) -> Path:
    w = weights()
    tensors = [
        ("x", (1, INPUTS), None),
        ("w1", (HIDDEN, INPUTS), w["w1"].T),
        ("b1", (HIDDEN,), w["b1"]),
        ("h", (1, HIDDEN), None),
        ("w2", (OUTPUTS, HIDDEN), w["w2"].T),
        ("b2", (OUTPUTS,), w["b2"]),
        ("y", (1, OUTPUTS), None),
    ]
    layers = [([0, 1, 2], [3], True), ([3, 4, 5], [6], False)]
    path.write_bytes(tflite(tensors, layers, [0], [6], free_batch=free_batch))
    return path


def tflite(
    tensors: list[tuple[str, tuple[int, ...], np.ndarray | None]],
    layers: list[tuple[list[int], list[int], bool]],
    inputs: list[int],
    outputs: list[int],
    custom_op: str = "",
    *,
    free_batch: bool = False,
) -> bytes:
    """Write dense layers ``(inputs, outputs, has_relu)``, or custom operations, as a flatbuffer."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def filled(thing: Any, **fields: Any) -> Any:
        for name, value in fields.items():
            setattr(thing, name, value)
        return thing

    buffers = [filled(schema.BufferT(), data=None)]
    rows = []
    for name, shape, values in tensors:
        index = 0
        if values is not None:
            index = len(buffers)
            data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)
            buffers.append(filled(schema.BufferT(), data=data))
        kind = schema.TensorType.FLOAT32
        row = filled(schema.TensorT(), name=name, shape=list(shape), buffer=index, type=kind)
        if free_batch and values is None:
            row.shapeSignature = [-1, *shape[1:]]
        rows.append(row)
    operators = []
    for ins, outs, has_relu in layers:
        operator = filled(schema.OperatorT(), opcodeIndex=0, inputs=ins, outputs=outs)
        if not custom_op:
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = filled(
                schema.FullyConnectedOptionsT(), fusedActivationFunction=1 if has_relu else 0
            )
        operators.append(operator)
    code = schema.BuiltinOperator.CUSTOM if custom_op else schema.BuiltinOperator.FULLY_CONNECTED
    opcode = filled(schema.OperatorCodeT(), builtinCode=code, deprecatedBuiltinCode=code, version=1)
    opcode.customCode = custom_op or None
    graph = filled(schema.SubGraphT(), tensors=rows, inputs=inputs, outputs=outputs, operators=operators)
    model = filled(
        schema.ModelT(),
        version=3,
        buffers=buffers,
        subgraphs=[graph],
        operatorCodes=[opcode],
        description="net",
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
