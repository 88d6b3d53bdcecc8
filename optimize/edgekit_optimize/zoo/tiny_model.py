"""Write the self-test model of the backends, y = relu(x @ w + b), 16 inputs, 4 outputs, in every format.

Run it where ``onnx``, ``openvino`` and ``ai-edge-litert`` are installed::

    python -m edgekit_optimize.zoo.tiny_model

The files are committed, since devices lack the libraries that write them. The weights are small whole
numbers, so that every backend and precision gives exactly the same output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends import tiny
from edgekit.backends.tiny import BIASES, WEIGHTS

_FOLDER = Path(tiny.__file__).parent


def onnx_bytes() -> bytes:
    """Return the model as ONNX: opset 11 and IR 6, which OpenVINO 2021.4 still reads."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["g"]), helper.make_node("Relu", ["g"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(_weights(), "w"), numpy_helper.from_array(_biases(), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    return bytes(model.SerializeToString())


def tflite_bytes() -> bytes:
    """Return the model as a TensorFlow Lite flatbuffer: one FULLY_CONNECTED with a fused RELU."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.description = "tiny"
    model.buffers = [_filled(schema.BufferT(), data=None)]
    graph = schema.SubGraphT()
    graph.tensors = []
    contents = [
        ("x", (1, 16), None),
        ("w", (4, 16), _weights().T),
        ("b", (4,), _biases()),
        ("y", (1, 4), None),
    ]
    for name, shape, values in contents:
        index = 0
        if values is not None:
            index = len(model.buffers)
            data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            model.buffers.append(_filled(schema.BufferT(), data=data))
        tensor = _filled(schema.TensorT(), name=name, shape=list(shape), buffer=index)
        tensor.type = schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    options = _filled(
        schema.FullyConnectedOptionsT(), fusedActivationFunction=schema.ActivationFunctionType.RELU
    )
    operator = _filled(
        schema.OperatorT(), opcodeIndex=0, inputs=[0, 1, 2], outputs=[3], builtinOptions=options
    )
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    model.subgraphs = [graph]
    code = schema.BuiltinOperator.FULLY_CONNECTED
    model.operatorCodes = [
        _filled(schema.OperatorCodeT(), builtinCode=code, deprecatedBuiltinCode=code, version=1)
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write(folder: Path) -> None:
    """Write the model below ``folder`` as .onnx, .tflite, and .xml with .bin."""
    from edgekit.backends.openvino import import_openvino

    openvino = import_openvino()
    (folder / "relu.onnx").write_bytes(onnx_bytes())
    (folder / "relu.tflite").write_bytes(tflite_bytes())
    model = openvino.Core().read_model(str(folder / "relu.onnx"))
    openvino.save_model(model, str(folder / "relu.xml"), compress_to_fp16=False)


def _weights() -> Any:
    return np.array(WEIGHTS, np.float32)


def _biases() -> Any:
    return np.array(BIASES, np.float32)


def _filled(thing: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(thing, name, value)
    return thing


if __name__ == "__main__":
    write(_FOLDER)
