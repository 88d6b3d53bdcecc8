"""Every kind of layer means in an ONNX file what it means in NumPy."""

import numpy as np
import pytest

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.network import Layer, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.quantize import NO_INTEGERS, observe, quantize

from .nets import conv, run_onnx

RNG = np.random.default_rng(4)
IMAGE = (1, 6, 8, 4)


def normal(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


def constant(name, values):
    return Layer("constant", (), name, weights=np.asarray(values, np.float32))


def layer(kind, *inputs, **fields):
    return Layer(kind, inputs or ("x",), "y", **fields)


ONE_LAYER = {
    **{kind: [layer(kind)] for kind in ("tanh", "sigmoid", "exp", "abs", "neg", "elu", "hard_swish", "relu")},
    "sqrt": [Layer("abs", ("x",), "a"), layer("sqrt", "a")],
    "leaky_relu": [layer("leaky_relu", value=0.3)],
    "prelu": [constant("slope", normal(4)), layer("prelu", "x", "slope")],
    "add a vector": [constant("c", normal(4)), layer("add", "x", "c")],
    "a number minus": [constant("c", 2.0), layer("sub", "c", "x")],
    "mul an image": [constant("c", normal(*IMAGE)), layer("mul", "x", "c")],
    "divided by a row": [constant("c", 1 + np.abs(normal(1, 1, 8, 1))), layer("div", "x", "c")],
    "minimum": [constant("c", 0.2), layer("minimum", "x", "c")],
    "maximum of two": [Layer("neg", ("x",), "n"), layer("maximum", "x", "n", activation="relu6")],
    "gate": [Layer("mean", ("x",), "m", keeps_axes=True), layer("mul", "x", "m")],
    "flat and flat": [
        Layer("reshape", ("x",), "f", shape=(1, 192)),
        Layer("tanh", ("f",), "t"),
        layer("add", "f", "t"),
    ],
    "image and flat": [Layer("mean", ("x",), "m"), layer("add", "x", "m")],
    "average_pool": [layer("average_pool", window=(3, 3), stride=(2, 2))],
    "average_pool valid": [layer("average_pool", window=(2, 3), padding="valid")],
    "mean of all": [layer("mean", axes=(1, 2, 3))],
    "mean of channels": [layer("mean", axes=(3,), keeps_axes=True)],
    "mean of rows": [layer("mean", axes=(1,))],
    "max of columns": [layer("reduce_max", axes=(2,))],
    "max of pixels": [layer("reduce_max", axes=(1, 2), keeps_axes=True)],
    "sum of channels": [layer("reduce_sum", axes=(-1,))],
    "transpose": [layer("transpose", axes=(0, 3, 1, 2))],
    "slice": [layer("slice", starts=(0, 1, 0, 2), shape=(1, 4, 8, 2))],
    "slice by steps": [layer("slice", starts=(0, 1, 0, 0), shape=(1, 3, 3, 4), steps=(1, 2, 3, 1))],
    "pad with a value": [layer("pad", pads=((0, 0), (1, 2), (0, 1), (0, 0)), value=-3.0)],
    "depth_to_space": [layer("depth_to_space", value=2.0)],
    **{
        f"{kind} {grid}": [layer(kind, shape=(12, 16), grid=grid)]
        for kind in ("resize_nearest", "resize_bilinear")
        for grid in ("corner", "half_pixel", "aligned")
        if (kind, grid) != ("resize_nearest", "aligned")
    },
    "dilated": [conv("y", "x", normal(5, 3, 3, 4), dilation=(2, 1), padding="valid")],
    "dilated same": [conv("y", "x", normal(5, 3, 3, 4), dilation=(1, 2))],
    "grouped": [conv("y", "x", normal(6, 3, 3, 2))],
    "depthwise, two each": [conv("y", "x", normal(1, 3, 3, 8), kind="depthwise")],
    "dense on rows": [
        Layer("reshape", ("x",), "f", shape=(1, 48, 4)),
        layer("dense", "f", weights=normal(3, 4), bias=normal(3)),
    ],
}


@pytest.mark.parametrize("name", ONE_LAYER)
def test_a_layer_means_the_same_after_a_convolution_and_without(name):
    feeds = {"x": normal(*IMAGE)}
    alone = Network({"x": IMAGE}, tuple(ONE_LAYER[name]), ("y",))
    first = conv("z", "x0", np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4))
    after = Network({"x0": IMAGE}, (first, *alone.renamed({"x": "z"}).layers), ("y",))
    for network, given in ((alone, feeds), (after, {"x0": feeds["x"]})):
        wanted = network.run(given)["y"]
        found = run_onnx(write_onnx(network), given)["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_quantised_file_is_near_the_float_one_where_some_layers_stay_float():
    layers = (
        conv("a", "x", normal(8, 3, 3, 4) / 4, activation="relu6"),
        Layer("mean", ("a",), "m", keeps_axes=True),
        Layer("sigmoid", ("m",), "g"),
        Layer("mul", ("a", "g"), "s"),
        Layer("exp", ("g",), "e"),
        conv("y", "s", normal(3, 1, 1, 8) / 4),
    )
    network = Network({"x": IMAGE}, layers, ("y", "e"))
    assert "exp" in NO_INTEGERS
    samples = [{"x": normal(*IMAGE)} for _ in range(8)]
    meaning = quantize(network, observe(network, samples), keep_float=["y"])
    wanted, found = network.run(samples[0]), run_onnx(write_onnx(network, meaning), samples[0])
    np.testing.assert_allclose(found["y"], wanted["y"], atol=0.08)
    np.testing.assert_allclose(found["e"], wanted["e"], atol=0.02)


def test_a_layer_that_onnx_has_no_nodes_for_is_named():
    network = Network({"x": IMAGE}, (layer("unheard_of"),), ("y",))
    with pytest.raises(ModelError, match=r"layer 'y' \(unheard_of\) cannot be written as ONNX"):
        write_onnx(network)
