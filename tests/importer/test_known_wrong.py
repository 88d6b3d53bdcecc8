"""A runtime that is known to answer wrongly for a kind of file is left out, whatever it answers today."""

import numpy as np
import pytest

from edgekit.importer.importing import import_model
from edgekit.importer.readers import read_model_file


def depthwise(path, scales=(0.01,), kind="INT8", channels=3):
    """Write a depthwise convolution of int8 weights on float32 activations, as Ultralytics exported it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def filled(thing, **fields):
        for name, value in fields.items():
            setattr(thing, name, value)
        return thing

    values = np.random.default_rng(0).integers(-100, 100, (1, 3, 3, channels)).astype(np.int8)
    if kind == "FLOAT32":
        values = values.astype(np.float32) / 100
    data = np.frombuffer(values.tobytes(), np.uint8)
    parameters = filled(schema.QuantizationParametersT(), scale=list(scales), zeroPoint=[0] * len(scales))
    parameters.quantizedDimension = 3
    shape, real = [1, 8, 8, channels], schema.TensorType.FLOAT32
    tensors = [
        filled(schema.TensorT(), name="x", shape=shape, buffer=0, type=real),
        filled(schema.TensorT(), name="w", shape=[1, 3, 3, channels], buffer=1),
        filled(schema.TensorT(), name="b", shape=[channels], buffer=2, type=real),
        filled(schema.TensorT(), name="y", shape=shape, buffer=0, type=real),
    ]
    tensors[1].type = getattr(schema.TensorType, kind)
    tensors[1].quantization = parameters if scales else None
    options = filled(schema.DepthwiseConv2DOptionsT(), strideW=1, strideH=1, depthMultiplier=1)
    operator = filled(schema.OperatorT(), inputs=[0, 1, 2], outputs=[3], builtinOptions=options)
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    code = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    opcode = filled(schema.OperatorCodeT(), builtinCode=code, deprecatedBuiltinCode=code, version=6)
    graph = filled(schema.SubGraphT(), tensors=tensors, inputs=[0], outputs=[3], operators=[operator])
    zeros = np.zeros(4 * channels, np.uint8)
    buffers = [filled(schema.BufferT(), data=each) for each in (None, data, zeros)]
    model = filled(schema.ModelT(), version=3, buffers=buffers, subgraphs=[graph], operatorCodes=[opcode])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.mark.parametrize(
    ("more", "is_wrong"),
    [
        ({}, True),
        ({"scales": (0.01, 0.02, 0.01)}, False),
        ({"kind": "FLOAT32", "scales": ()}, False),
        ({"channels": 1}, False),
    ],
)
def test_int8_depthwise_weights_with_one_scale_are_noticed_in_the_file(more, is_wrong, tmp_path):
    file = read_model_file(depthwise(tmp_path / "m.tflite", **more))
    assert list(file.miscomputed) == ["litert"] * is_wrong


def test_litert_is_left_out_with_the_reason_and_openvino_runs_the_file(tmp_path):
    made = import_model(depthwise(tmp_path / "m.tflite"), tmp_path / "b", flags={"decoder": "raw"})
    assert {variant.backend for variant in made.manifest.variants} == {"openvino"}
    (why,) = made.manifest.provenance.excluded.values()
    assert why == "LiteRT computes int8 depthwise weights with one scale wrongly (1 layers have such)"
