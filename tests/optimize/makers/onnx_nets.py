"""A small image classifier in ONNX, with what exporters leave in: batch norms, clamps, a residual."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.spec import Pre, TensorSpec
from edgekit_optimize.plan import Plan, Root

SIDE = 16
PRE = Pre(mean=(127.0,), std=(128.0,))


def build(nodes, inputs, outputs, weights, opset=17):
    """Return a model; inputs and outputs as ``{name: shape}``, weights as ``{name: array}``."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()]
        for ends in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", *values, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def classifier(seed=0, opset=17):
    """Return conv-bn-relu, a depthwise conv-clip with a residual around it, a pool, and a Gemm."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=0.3):
        return rng.normal(0, scale, shape).astype(np.float32)

    weights = {
        "w1": normal(8, 3, 3, 3),
        "scale": np.linspace(0.5, 2.0, 8).astype(np.float32),
        "shift": normal(8),
        "mean": normal(8),
        "var": np.linspace(0.5, 2.0, 8).astype(np.float32),
        "w2": normal(8, 1, 3, 3),
        "b2": normal(8),
        "low": np.float32(0),
        "high": np.float32(6),
        "w3": normal(10, 8, scale=1.0),
        "b3": normal(10),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        node("Clip", ["c2", "low", "high"], ["r2"]),
        node("Add", ["r1", "r2"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "w3", "b3"], ["scores"], transB=1),
    ]
    return build(nodes, {"image": (1, 3, SIDE, SIDE)}, {"scores": (1, 10)}, weights, opset)


def chain(*nodes, weights=None, shape=(1, 4), out=None, opset=17):
    """Return a model of nodes from ``x`` to ``y``."""
    return build(list(nodes), {"x": shape}, {"y": out or shape}, weights or {}, opset)


def pictures(count=24, seed=1):
    """Return pictures as bytes (count, height, width, 3) and as the classifier takes them."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    pixels[::2, :, : SIDE // 2] //= 4
    return pixels, ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)


def specs(model):
    """Return the inputs and outputs of a model."""
    return tuple(
        tuple(
            TensorSpec(
                name=value.name,
                datatype="FP32",
                shape=tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
            )
            for value in values
        )
        for values in (model.graph.input, model.graph.output)
    )


def root_of(folder: Path, model, samples=None, **fields):
    """Write a model and its calibration samples and return the root."""
    onnx.save(model, str(folder / "net.onnx"))
    inputs, outputs = specs(model)
    if samples is not None:
        np.savez(folder / "calibration.npz", **{inputs[0].name: samples})
        fields["calibration"] = str(folder / "calibration.npz")
    return Root(onnx=str(folder / "net.onnx"), inputs=inputs, outputs=outputs, **fields)


def picture_root(folder: Path, model=None, **fields):
    """Return the classifier as a root that takes pictures."""
    settings = {"pre": PRE, "image": "image", "layout": "NCHW", **fields}
    return root_of(folder, model or classifier(), pictures()[1], **settings)


def plan(technique, backend="onnxruntime", precision="fp32", accelerator="cpu", **options):
    return Plan(
        id="candidate",
        technique=technique,
        backend=backend,
        precision=precision,
        accelerator=accelerator,
        options=options,
    )


def session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(path, samples):
    """Return the first output of each sample, run one at a time."""
    model = session(path)
    name = model.get_inputs()[0].name
    return np.stack([model.run(None, {name: sample[None]})[0][0] for sample in samples])


def sqnr_db(wanted, found):
    noise = max(float(np.sum((wanted - found) ** 2)), 1e-30)
    return 10 * np.log10(float(np.sum(wanted**2)) / noise)
