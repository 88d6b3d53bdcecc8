"""A small recurrent network with seeded weights as ONNX, its recordings, and what it says of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FRAME, HIDDEN, CLASSES = 6, 8, 4


def _weights():
    random = np.random.default_rng(5)
    shapes = {
        "W": (1, 3 * HIDDEN, FRAME),
        "R": (1, 3 * HIDDEN, HIDDEN),
        "B": (1, 6 * HIDDEN),
        "V": (HIDDEN, CLASSES),
    }
    return {name: random.normal(scale=0.7, size=shape).astype(np.float32) for name, shape in shapes.items()}


def gru_onnx(path):
    """Write the network: ``x`` (1, 1, 6) and ``h`` (1, 1, 8) to ``y`` (1, 4) and ``hn`` (1, 1, 8)."""
    graph = helper.make_graph(
        [
            helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["", "hn"], hidden_size=HIDDEN),
            helper.make_node("Reshape", ["hn", "flat"], ["last"]),
            helper.make_node("MatMul", ["last", "V"], ["y"]),
        ],
        "gru",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, FRAME)),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, (1, 1, HIDDEN)),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CLASSES)),
            helper.make_tensor_value_info("hn", TensorProto.FLOAT, (1, 1, HIDDEN)),
        ],
        [
            *(numpy_helper.from_array(values, name) for name, values in _weights().items()),
            numpy_helper.from_array(np.array([1, HIDDEN]), "flat"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def recordings(count=6, length=20):
    """Return frames (n, 1, 6) and each one's recording, (n,)."""
    random = np.random.default_rng(6)
    marks = np.repeat(np.arange(count), length)
    return random.normal(size=(count * length, 1, FRAME)).astype(np.float32), marks


def answers(frames, starts):
    """Return the states before each frame and the answers, computed here, gate by gate."""
    w = _weights()
    wz, wr, wn = np.split(w["W"][0], 3)
    rz, rr, rn = np.split(w["R"][0], 3)
    bz, br, bn, cz, cr, cn = np.split(w["B"][0], 6)
    state, states, found = np.zeros(HIDDEN), [], []
    for n, frame in enumerate(frames.reshape(len(frames), FRAME).astype(np.float64)):
        if n in starts:
            state = np.zeros(HIDDEN)
        states.append(state)
        z = _sigmoid(wz @ frame + bz + rz @ state + cz)
        r = _sigmoid(wr @ frame + br + rr @ state + cr)
        new = np.tanh(wn @ frame + bn + rn @ (r * state) + cn)
        state = (1 - z) * new + z * state
        found.append(state @ w["V"])
    return np.array(states), np.array(found)


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))
