"""Reading ONNX: every operator means in NumPy and in LiteRT what it means in ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.errors import ModelError
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.onnx_network import read_onnx
from edgekit_optimize.graph.tflite import read_tflite, write_tflite

from .nets import every_kind, run_onnx, run_tflite

IMAGE = (1, 4, 9, 12)
ROW = (1, 4, 11)
FLAT = (1, 6)


def weights(*shape, seed=5):
    return np.random.default_rng(seed).normal(0, 0.6, shape).astype(np.float32)


def numbers(*values):
    return np.asarray(values, np.int64)


def model(nodes, shape, constants, outputs=("y",), opset=17, names=("x",)):
    """Return a file's bytes: nodes as (operator, inputs, outputs, attributes)."""
    made = [
        helper.make_node(operator, ins, outs, name=f"the_{operator}{n or ''}", **attributes)
        for n, (operator, ins, outs, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(
        made,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def one(operator, shape, *constants, outputs=("y",), opset=17, **attributes):
    """Return a file with one node; a constant that is None is left out."""
    given = {f"c{n}": values for n, values in enumerate(constants) if values is not None}
    ins = ["x", *(f"c{n}" if values is not None else "" for n, values in enumerate(constants))]
    return model([(operator, ins, list(outputs), attributes)], shape, given, outputs, opset)


def read(data, tmp_path, channels_last=None):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return read_onnx(path, channels_last)


def run_directly(data, feeds):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_means_the_same(data, tmp_path):
    network = read(data, tmp_path)
    entry = onnx.load_from_string(data).graph.input[0]
    shape = [size.dim_value for size in entry.type.tensor_type.shape.dim]
    values = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    wanted = run_directly(data, {"x": values})
    turned = values.transpose(0, 2, 3, 1) if network.inputs["x"] != tuple(shape) else values
    feeds = {"x": np.ascontiguousarray(turned)}
    computed, lite = network.run(feeds), run_tflite(write_tflite(network), feeds)
    again = run_onnx(write_onnx(network), feeds)
    for name, value in wanted.items():
        atol = 1e-4 * max(float(np.abs(value).max()), 1e-3)
        for found in (computed, lite, again):
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)
    return network


CONVS = {
    "same on odd sizes": {"pads": [1, 1, 1, 1]},
    "padding that is not same": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "padding on one side": {"pads": [0, 2, 1, 0]},
    "dilated": {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "automatic, odd pixel first": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "automatic, odd pixel last": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
}


@pytest.mark.parametrize("attributes", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize(("groups", "out"), [(1, 5), (4, 4), (4, 8), (2, 6)])
def test_a_convolution_keeps_its_meaning(groups, out, attributes, tmp_path):
    kernel = weights(out, 4 // groups, 3, 3)
    assert_means_the_same(one("Conv", IMAGE, kernel, weights(out), group=groups, **attributes), tmp_path)


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 2], "strides": [2]}, {"dilations": [3]}])
def test_a_convolution_along_a_row_keeps_its_meaning(attributes, tmp_path):
    assert_means_the_same(one("Conv", ROW, weights(5, 4, 3), weights(5), **attributes), tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
)
def test_a_transposed_convolution_keeps_its_meaning(attributes, tmp_path):
    kernel = weights(4, 3, *attributes["kernel_shape"])
    assert_means_the_same(one("ConvTranspose", IMAGE, kernel, weights(3), **attributes), tmp_path)


POOLS = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [1, 1], "auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_a_pool_keeps_its_meaning(operator, attributes, tmp_path):
    assert_means_the_same(one(operator, IMAGE, **attributes), tmp_path)


@pytest.mark.parametrize("attributes", POOLS[:3])
def test_an_average_that_counts_its_padding_keeps_its_meaning(attributes, tmp_path):
    assert_means_the_same(one("AveragePool", IMAGE, count_include_pad=1, **attributes), tmp_path)


ELEMENTWISE = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "HardSwish": (),
    "Exp": (),
    "Abs": (),
    "Neg": (),
    "Elu": (),
    "LeakyRelu": (),
    "HardSigmoid": (),
    "Identity": (),
    "Clip": (np.float32(0.0), np.float32(6.0)),
    "PRelu": (weights(4, 1, 1),),
    "Add": (weights(4, 1, 1),),
    "Sub": (weights(1, 4, 9, 12),),
    "Mul": (weights(1),),
    "Div": (weights(12) + 3,),
    "Max": (weights(4, 1, 1),),
    "Pow": (np.float32(2.0),),
}


@pytest.mark.parametrize("operator", ELEMENTWISE)
@pytest.mark.parametrize("shape", [IMAGE, (1, 4, 1, 12)], ids=["image", "strip"])
def test_an_operator_on_each_value_keeps_its_meaning(operator, shape, tmp_path):
    constants = [c if c.shape[-3:] != IMAGE[1:] else c[:, :, : shape[2]] for c in ELEMENTWISE[operator]]
    assert_means_the_same(one(operator, shape, *constants), tmp_path)


@pytest.mark.parametrize("bounds", [(-0.3, 0.4), (0.0, None), (None, 0.2), (0.0, 1.0)])
def test_any_bounds_keep_their_meaning(bounds, tmp_path):
    given = [None if bound is None else np.float32(bound) for bound in bounds]
    while given and given[-1] is None:
        given.pop()
    assert_means_the_same(one("Clip", FLAT, *given), tmp_path)


def test_a_hard_sigmoid_of_torch_ends_in_a_bounded_layer(tmp_path):
    network = assert_means_the_same(one("HardSigmoid", IMAGE, alpha=1 / 6, beta=0.5), tmp_path)
    assert "minimum" not in {layer.kind for layer in network.layers}


MOVES = {
    "Transpose": [((), {"perm": [0, 2, 3, 1]}), ((), {"perm": [0, 3, 1, 2]}), ((), {})],
    "Reshape": [((numbers(1, -1, 6),), {}), ((numbers(0, 2, 2, -1),), {})],
    "Flatten": [((), {"axis": 1}), ((), {"axis": 2})],
    "Unsqueeze": [((numbers(1),), {})],
    "Softmax": [((), {"axis": 1}), ((), {"axis": -1})],
    "ReduceMean": [((), {"axes": [2, 3]}), ((), {"axes": [2, 3], "keepdims": 0}), ((), {"axes": [1]})],
    "ReduceMax": [((), {"axes": [3], "keepdims": 0}), ((), {"axes": [1, 2]})],
    "ReduceSum": [((numbers(1, 3),), {"keepdims": 0})],
    "GlobalAveragePool": [((), {})],
    "GlobalMaxPool": [((), {})],
    "Slice": [
        ((numbers(1, 2), numbers(3, 9), numbers(1, 3), numbers(1, 2)), {}),
        ((numbers(-4), numbers(2**62), numbers(3)), {}),
    ],
    "Gather": [((np.asarray(2, np.int64),), {"axis": 1}), ((numbers(0, 2),), {"axis": 3})],
    "Pad": [
        ((numbers(0, 0, 1, 2, 0, 0, 0, 1),), {}),
        ((numbers(0, 1, 0, 0, 0, 2, 0, 0), np.float32(0.7)), {}),
    ],
    "DepthToSpace": [((), {"blocksize": 2}), ((), {"blocksize": 2, "mode": "CRD"})],
    "Expand": [((numbers(1, 4, 9, 12),), {})],
}
CASES = [(operator, *case) for operator, cases in MOVES.items() for case in cases]


@pytest.mark.parametrize(("operator", "constants", "attributes"), CASES)
def test_an_operator_that_moves_values_keeps_its_meaning(operator, constants, attributes, tmp_path):
    assert_means_the_same(one(operator, IMAGE, *constants, **attributes), tmp_path)


RESIZES = [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
]


@pytest.mark.parametrize("attributes", RESIZES)
def test_a_resize_keeps_its_meaning(attributes, tmp_path):
    scales = np.asarray([1, 1, 2, 2], np.float32)
    assert_means_the_same(one("Resize", IMAGE, None, scales, **attributes), tmp_path)


def test_space_becomes_depth_where_the_sizes_allow(tmp_path):
    assert_means_the_same(one("SpaceToDepth", (1, 3, 6, 4), blocksize=2), tmp_path)


def test_the_parts_of_a_split_keep_their_places(tmp_path):
    data = one("Split", IMAGE, numbers(1, 3), outputs=("a", "b"), axis=1)
    assert_means_the_same(data, tmp_path)


def test_a_classifier_reads_its_image_in_the_order_it_lies_in(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], {}),
        ("Relu", ["n"], ["r"], {}),
        ("Flatten", ["r"], ["f"], {}),
        ("Dropout", ["f"], ["d"], {}),
        ("Gemm", ["d", "k", "o"], ["g"], {"transB": 1}),
        ("Add", ["g", "p"], ["y"], {}),
    ]
    constants = {"w": weights(3, 4, 3, 3), "s": weights(3), "b": weights(3), "m": weights(3)}
    constants |= {"v": np.abs(weights(3)) + 0.5, "k": weights(5, 210), "o": weights(5), "p": weights(5)}
    network = assert_means_the_same(model(nodes, IMAGE, constants), tmp_path)
    assert [layer.kind for layer in network.layers] == ["conv", "reshape", "dense"]
    assert network.layers[0].output == "r"
    assert network.layers[0].names() >= {"c", "n", "r"}
    assert network.layers[-1].names() >= {"g", "y"}


def test_a_residual_block_with_a_gate_keeps_its_meaning(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("Sigmoid", ["a"], ["s"], {}),
        ("Mul", ["a", "s"], ["silu"], {}),
        ("GlobalAveragePool", ["silu"], ["p"], {}),
        ("Conv", ["p", "k"], ["q"], {}),
        ("HardSigmoid", ["q"], ["gate"], {"alpha": 1 / 6, "beta": 0.5}),
        ("Mul", ["gate", "silu"], ["gated"], {}),
        ("Add", ["gated", "x"], ["y"], {}),
    ]
    assert_means_the_same(model(nodes, IMAGE, {"w": weights(4, 4, 3, 3), "k": weights(4, 4, 1, 1)}), tmp_path)


def test_the_stem_of_a_residual_network_pads_only_what_its_windows_reach(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": [3, 3, 3, 3], "strides": [2, 2]}),
        ("Relu", ["c"], ["r"], {}),
        ("MaxPool", ["r"], ["y"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ]
    network = assert_means_the_same(model(nodes, (1, 3, 32, 32), {"w": weights(4, 3, 7, 7)}), tmp_path)
    pads = [layer.pads for layer in network.layers if layer.kind == "pad"]
    assert pads == [((0, 0), (3, 2), (3, 2), (0, 0)), ((0, 0), (1, 0), (1, 0), (0, 0))]
    assert all(layer.value == 0.0 for layer in network.layers)


def test_heads_that_are_turned_and_joined_cost_no_transposition(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["t", "shape"], ["r"], {}),
        ("Softmax", ["r"], ["y"], {"axis": -1}),
    ]
    constants = {"w": weights(6, 4, 1, 1), "shape": numbers(1, -1, 3)}
    network = assert_means_the_same(model(nodes, IMAGE, constants), tmp_path)
    assert [layer.kind for layer in network.layers] == ["conv", "reshape", "softmax"]


def test_what_is_known_ahead_is_computed_ahead(tmp_path):
    nodes = [
        ("Shape", ["x"], ["s"], {}),
        ("Gather", ["s", "first"], ["n"], {"axis": 0}),
        ("Concat", ["n", "rest"], ["target"], {"axis": 0}),
        ("Reshape", ["x", "target"], ["y"], {}),
    ]
    network = assert_means_the_same(model(nodes, IMAGE, {"first": numbers(0), "rest": numbers(-1)}), tmp_path)
    assert network.shapes()["y"] == (1, 432)


def test_inputs_that_are_not_images_keep_the_order_of_their_axes(tmp_path):
    data = one("Conv", IMAGE, weights(2, 4, 1, 1))
    assert read(data, tmp_path).inputs == {"x": (1, 9, 12, 4)}
    network = read(data, tmp_path, channels_last=())
    assert network.inputs == {"x": IMAGE}
    assert network.shapes()["y"] == (1, 2, 9, 12)
    turned = model([("Transpose", ["x"], ["y"], {"perm": [0, 3, 1, 2]})], IMAGE, {})
    assert read(turned, tmp_path).inputs == {"x": IMAGE}


def test_our_own_files_read_back_as_what_was_written(tmp_path):
    network = every_kind()
    again = read(write_onnx(network), tmp_path)
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 13, 17, 3)).astype(np.float32)}
    wanted, found = network.run(feeds), again.run(feeds)
    lite = read_tflite(write_tflite(again)).run(feeds)
    for name in network.outputs:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
        np.testing.assert_allclose(lite[name], wanted[name], atol=1e-5)


REFUSED = {
    "the_LSTM": one("LSTM", (4, 1, 3), weights(1, 8, 3), weights(1, 8, 2), hidden_size=2, outputs=("y",)),
    "the_Pad": one("Pad", IMAGE, numbers(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
    "the_Cast": one("Cast", IMAGE, to=TensorProto.INT32),
    "the_Gather": one("Gather", IMAGE, numbers(0, 3, 1), axis=1),
    "the_Pow": one("Pow", IMAGE, np.float32(3.0)),
    "the_MatMul": model([("MatMul", ["x", "x"], ["y"], {})], (1, 4, 4), {}),
    "the_QuantizeLinear": one("QuantizeLinear", IMAGE, np.float32(0.1), np.uint8(3)),
    "the_Conv": one("Conv", (1, 4, 5, 5, 5), weights(2, 4, 1, 1, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_network_cannot_say_is_refused_by_node_and_operator_with_a_way_out(name, tmp_path):
    with pytest.raises(ModelError, match=f"{name}.*operator {name[4:]}") as caught:
        read(REFUSED[name], tmp_path)
    assert caught.value.hint


def test_a_free_shape_an_integer_input_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(ModelError, match="'x' has no fixed shape"):
        read(one("Relu", ("n", 3)), tmp_path)
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.INT32, FLAT)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, FLAT)],
    )
    with pytest.raises(ModelError, match="has an integer type"):
        read(helper.make_model(graph).SerializeToString(), tmp_path)
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        read(b"not a model", tmp_path)


def test_a_transposed_convolution_that_is_cut_still_goes_by_its_own_name(tmp_path):
    data = one("ConvTranspose", IMAGE, weights(4, 3, 3, 3), kernel_shape=[3, 3], pads=[1, 0, 0, 1])
    layer = next(layer for layer in read(data, tmp_path).layers if layer.kind == "transposed_conv")
    assert "y" in layer.names()
