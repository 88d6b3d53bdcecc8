"""Small networks for the tests, and the three runtimes to run their files with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from edgekit_optimize.graph.network import Layer, Network


def conv(name, source, weights, **fields):
    kind = fields.pop("kind", "conv")
    count = weights.shape[3] if kind == "depthwise" else weights.shape[0]
    bias = np.linspace(-0.5, 0.5, count).astype(np.float32)
    return Layer(kind, (source,), name, weights=weights.astype(np.float32), bias=bias, **fields)


def dense(name, source, weights):
    bias = np.ones(len(weights), np.float32)
    return Layer("dense", (source,), name, weights=weights.astype(np.float32), bias=bias)


def every_kind(seed=0):
    """Return a network that has every kind of layer, two outputs, and both orders of axes."""
    rng = np.random.default_rng(seed)
    layers = (
        conv("a", "x", rng.normal(0, 0.4, (6, 3, 3, 3)), stride=(2, 2), activation="relu6"),
        conv("b", "a", rng.normal(0, 0.4, (1, 5, 5, 6)), kind="depthwise", activation="relu"),
        conv("c", "b", rng.normal(0, 0.4, (6, 1, 1, 6)), padding="valid"),
        Layer("add", ("a", "c"), "d"),
        Layer("relu", ("d",), "d_relu"),
        Layer("pad", ("d_relu",), "e", pads=((0, 0), (0, 0), (0, 0), (1, 1))),
        Layer("max_pool", ("e",), "f", window=(2, 2), stride=(2, 2)),
        Layer("reshape", ("f",), "g", shape=(1, 20, 8)),
        Layer("reshape", ("e",), "h", shape=(1, 63, 8)),
        Layer("concat", ("g", "h"), "boxes", axis=1),
        Layer("mean", ("f",), "i"),
        Layer(
            "dense",
            ("i",),
            "j",
            weights=rng.normal(0, 1, (4, 8)).astype(np.float32),
            bias=np.ones(4, np.float32),
        ),
        Layer("relu6", ("j",), "k"),
        Layer("sigmoid", ("k",), "l"),
        Layer("softmax", ("l",), "scores"),
    )
    return Network({"x": (1, 13, 17, 3)}, layers, ("boxes", "scores"))


@st.composite
def networks(draw):
    """Draw a chain of convolutions, pools and residual additions with a classifier at its end."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = (1, draw(st.integers(4, 12)), draw(st.integers(4, 12)), draw(st.integers(1, 4)))
    layers, last, channels = [], "x", shape[3]
    for number in range(draw(st.integers(1, 4))):
        name, kind = f"t{number}", draw(st.sampled_from(["conv", "depthwise", "max_pool", "residual"]))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        size = draw(st.sampled_from([1, 2, 3]))
        act = draw(st.sampled_from(["none", "relu", "relu6"]))
        if kind == "conv":
            width = draw(st.integers(1, 5))
            weights = rng.normal(0, 0.5, (width, size, size, channels))
            layers.append(conv(name, last, weights, stride=stride, activation=act))
            channels = width
        elif kind == "depthwise":
            weights = rng.normal(0, 0.5, (1, size, size, channels))
            layers.append(conv(name, last, weights, kind="depthwise", stride=stride[:1] * 2, activation=act))
        elif kind == "max_pool":
            layers.append(Layer("max_pool", (last,), name, window=(size, size), stride=stride))
        else:
            weights = rng.normal(0, 0.5, (channels, size, size, channels))
            layers.append(conv(f"{name}/inner", last, weights))
            layers.append(Layer("add", (last, f"{name}/inner"), name, activation=act))
        last = name
    layers.append(Layer("mean", (last,), "features"))
    weights = rng.normal(0, 0.5, (3, channels)).astype(np.float32)
    layers.append(Layer("dense", ("features",), "scores", weights=weights, bias=np.zeros(3, np.float32)))
    return Network({"x": shape}, tuple(layers), ("scores",))


def run_tflite(data, feeds):
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(model_content=data, num_threads=1)
    model.allocate_tensors()
    for detail in model.get_input_details():
        value = feeds[detail["name"]]
        if detail["dtype"] == np.int8:
            scale, zero = detail["quantization"]
            value = np.clip(np.round(value / scale) + zero, -128, 127).astype(np.int8)
        model.set_tensor(detail["index"], value)
    model.invoke()
    found = {}
    for detail in model.get_output_details():
        value = model.get_tensor(detail["index"])
        if detail["dtype"] == np.int8:
            scale, zero = detail["quantization"]
            value = (value.astype(np.float32) - zero) * scale
        found[detail["name"]] = value
    return found


def channels_first(feeds):
    return {
        name: np.ascontiguousarray(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
        for name, value in feeds.items()
    }


def run_onnx(data, feeds):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, channels_first(feeds)), strict=True))


def run_openvino(xml, feeds):
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().read_model(str(xml))
    names = [port.any_name for port in model.outputs]
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    request.infer(channels_first(feeds))
    return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(names)}
