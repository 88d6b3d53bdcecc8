"""What ONNX Runtime's candidates hold and compute, run with ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import helper, numpy_helper

from edgekit.core.errors import ConfigError, ModelError, TensorError, UsageError
from edgekit.core.spec import Pre, TensorSpec
from edgekit_optimize.makers import baked, qdq
from edgekit_optimize.makers.onnxruntime import (
    make_dynamic,
    make_float,
    make_half,
    make_int4,
    make_myriad,
    make_static,
)
from edgekit_optimize.plan import Root

from .onnx_nets import (
    answers,
    build,
    chain,
    classifier,
    picture_root,
    pictures,
    plan,
    root_of,
    session,
    sqnr_db,
)


def made(maker, root, tmp_path, technique="onnx-static", name="out", **fields):
    folder = tmp_path / name
    folder.mkdir()
    result = maker(root, plan(technique, **fields), folder)
    return folder / result.files[0], result


def operators(path):
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def optimised(path):
    """Return the nodes that ONNX Runtime really runs, by name."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph.node


# ---------------------------------------------------------------------------------------------
# Float


def test_the_float_file_is_the_roots_own(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_float, root, tmp_path, "onnx-float")
    assert path.read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert result.layout == "NCHW"


def test_fusing_leaves_standard_operators_that_compute_the_same(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_float, root, tmp_path, "onnx-float", fused=True)
    model = onnx.load(str(path))
    assert "BatchNormalization" not in operators(path)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert result.notes == ("after fusing, 8 of 9 nodes remain",)
    _, pixels = pictures()
    np.testing.assert_allclose(answers(path, pixels), answers(tmp_path / "net.onnx", pixels), atol=1e-4)


def test_a_root_without_onnx_says_why(tmp_path):
    root = replace(picture_root(tmp_path), onnx="", missing={"onnx": "no converter knows CUSTOM_OP"})
    with pytest.raises(ModelError, match="has no ONNX form: no converter knows CUSTOM_OP"):
        made(make_float, root, tmp_path, "onnx-float")


# ---------------------------------------------------------------------------------------------
# Static int8


def test_static_int8_runs_on_integers_and_stays_near_the_float_model(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_static, root, tmp_path)
    assert result.integer_share == pytest.approx(1.0)
    assert {"QLinearConv", "QGemm"} <= {node.op_type for node in optimised(path)}
    assert "Conv" not in {node.op_type for node in optimised(path)}
    _, pixels = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 25


def test_the_same_plan_makes_the_same_bytes(tmp_path):
    root = picture_root(tmp_path)
    first, _ = made(make_static, root, tmp_path, name="first")
    second, _ = made(make_static, root, tmp_path, name="second")
    assert first.read_bytes() == second.read_bytes()


def test_one_scale_for_all_channels_only_where_asked_for(tmp_path):
    root = picture_root(tmp_path)
    sizes = {}
    for per_channel in (True, False):
        path, _ = made(make_static, root, tmp_path, name=str(per_channel), per_channel=per_channel)
        scales = [tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.name == "w2_scale"]
        sizes[per_channel] = int(np.prod(scales[0].dims))
    assert sizes == {True: 8, False: 1}


@pytest.mark.parametrize("layer", ["c1", "c2", "scores"])
def test_a_layer_kept_in_float_is_run_in_float(tmp_path, layer):
    """ONNX Runtime quantises float weights between integers by itself; the file must prevent it."""
    root = picture_root(tmp_path)
    path, result = made(make_static, root, tmp_path, keep_float=(layer,))
    shares = {"c1": 0.745, "c2": 0.248, "scores": 0.0065}
    running = [node.op_type for node in optimised(path)]
    assert result.integer_share == pytest.approx(1 - shares[layer], abs=0.01)
    assert running.count("QLinearConv") == (2 if layer == "scores" else 1)
    assert f"left in float: {layer}" in result.notes


def test_leaving_all_layers_in_float_gives_nearly_the_float_answers(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_static, root, tmp_path, keep_float=("c1", "c2", "scores"))
    assert result.integer_share == 0.0
    _, pixels = pictures()
    wanted = answers(tmp_path / "net.onnx", pixels)
    assert sqnr_db(wanted, answers(path, pixels)) > 35


def test_symmetric_activations_have_zero_point_zero(tmp_path):
    path, _ = made(make_static, picture_root(tmp_path), tmp_path, symmetric=True)
    zeros = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(str(path)).graph.initializer
        if "zero_point" in tensor.name
    ]
    assert zeros
    assert all(not zero.any() and zero.dtype in (np.int8, np.int32) for zero in zeros)


def test_for_tensorrt_weights_stand_behind_a_pair_and_biases_stay_float(tmp_path):
    root = picture_root(tmp_path)
    path, _ = made(make_static, root, tmp_path, symmetric=True, accelerator="tensorrt")
    model = onnx.load(str(path))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.INT32 not in types.values()
    assert types["w2"] == onnx.TensorProto.FLOAT
    _, pixels = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 20


@pytest.mark.parametrize("ranges", ["percentile", "entropy"])
def test_other_ways_to_find_ranges_stay_near_the_float_model_too(tmp_path, ranges):
    path, _ = made(make_static, picture_root(tmp_path), tmp_path, ranges=ranges)
    _, pixels = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 15


def test_an_unknown_way_to_find_ranges_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="want one of minmax, percentile, entropy, got 'guess'"):
        made(make_static, picture_root(tmp_path), tmp_path, ranges="guess")


def test_a_layer_that_gives_one_value_only_is_named_and_may_be_kept_in_float(tmp_path):
    weights = {"w": np.zeros((4, 4), np.float32), "v": np.eye(4, dtype=np.float32)}
    model = chain(
        helper.make_node("MatMul", ["x", "v"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
        weights=weights,
    )
    root = root_of(tmp_path, model, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    with pytest.raises(ModelError, match=r"tensor 'y' of layer 'y' \(MatMul\) is 0 on all calibration data"):
        made(make_static, root, tmp_path)
    _, result = made(make_static, root, tmp_path, name="kept", keep_float=("y",))
    assert result.integer_share == pytest.approx(0.5)


def test_an_input_that_never_changes_is_named(tmp_path):
    rows = np.zeros((8, 4), np.float32)
    root = root_of(tmp_path, classifier_of_rows(), rows[:1])
    with pytest.raises(TensorError, match="calibration data for 'x' are 0 everywhere"):
        made(make_static, root, tmp_path)


def classifier_of_rows():
    weights = {"w": np.eye(4, dtype=np.float32)}
    return chain(helper.make_node("MatMul", ["x", "w"], ["y"]), weights=weights)


def test_a_model_without_layers_to_quantise_is_refused(tmp_path):
    root = root_of(tmp_path, chain(helper.make_node("Relu", ["x"], ["y"])), np.eye(4, dtype=np.float32))
    with pytest.raises(ModelError, match="no layer to quantise"):
        made(make_static, root, tmp_path)


# ---------------------------------------------------------------------------------------------
# Preprocessing baked in


def test_bytes_become_the_first_layers_integers_without_arithmetic(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_static, root, tmp_path, pixels=True)
    assert result.layout == "NHWC"
    assert "QuantizeLinear" not in {node.op_type for node in optimised(path)}
    assert not {"Cast", "Sub", "Div"} & set(operators(path))
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    assert (constants["image_scale"], constants["image_zero_point"]) == (1 / 128, 127)
    assert session(path).get_inputs()[0].type == "tensor(uint8)"
    assert session(path).get_inputs()[0].shape == [1, 16, 16, 3]
    pixels, values = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", values), answers(path, pixels)) > 25


def test_a_kept_first_layer_reads_the_bytes_normalised(tmp_path):
    path, _ = made(make_static, picture_root(tmp_path), tmp_path, pixels=True, keep_float=("c1",))
    pixels, values = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", values), answers(path, pixels)) > 25


one_or_three = st.sampled_from([1, 3])


@settings(max_examples=12, deadline=None)
@given(
    mean=one_or_three.flatmap(lambda n: st.lists(st.floats(0, 255, width=32), min_size=n, max_size=n)),
    std=one_or_three.flatmap(lambda n: st.lists(st.floats(0.5, 255, width=32), min_size=n, max_size=n)),
    nhwc=st.booleans(),
)
def test_baked_preprocessing_is_byte_minus_mean_over_std(mean, std, nhwc):
    layout, shape = ("NHWC", (1, 5, 6, 3)) if nhwc else ("NCHW", (1, 3, 5, 6))
    model = chain(helper.make_node("Identity", ["x"], ["y"]), shape=shape)
    root = Root(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=shape),),
        outputs=(),
        pre=Pre(mean=tuple(mean), std=tuple(std)),
        image="x",
        layout=layout,
    )
    ready = onnxruntime.InferenceSession(
        baked.bake(model, root).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = np.arange(90, dtype=np.uint8).reshape(1, 5, 6, 3) * 2
    wanted = (pixels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    (found,) = ready.run(None, {"x": pixels})
    np.testing.assert_allclose(found, wanted if nhwc else wanted.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


def test_preprocessing_is_not_baked_where_there_is_no_image(tmp_path):
    root = root_of(tmp_path, classifier_of_rows(), np.eye(4, dtype=np.float32))
    with pytest.raises(UsageError, match="takes an image"):
        made(make_float, root, tmp_path, "onnx-float", pixels=True)


# ---------------------------------------------------------------------------------------------
# The others


def test_half_computes_in_16_bits_between_float32_ends(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_half, root, tmp_path, "onnx-half", precision="fp16", accelerator="cuda")
    model = onnx.load(str(path))
    assert {t.data_type for t in model.graph.initializer if t.name.startswith("w")} == {
        onnx.TensorProto.FLOAT16
    }
    assert [value.type for value in session(path).get_inputs()] == ["tensor(float)"]
    assert [value.type for value in session(path).get_outputs()] == ["tensor(float)"]
    onnx.checker.check_model(model)  # and its nodes stand in an order in which they can run
    _, pixels = pictures()
    assert sqnr_db(answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 40
    assert result.notes == ()


def test_a_value_too_large_for_16_bits_stays_in_32(tmp_path):
    model = chain(
        helper.make_node("Mul", ["x", "large"], ["m"]),
        helper.make_node("Mul", ["m", "small"], ["y"]),
        weights={"large": np.float32(1e6), "small": np.float32(1e-6)},
    )
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    path, result = made(make_half, root_of(tmp_path, model, rows), tmp_path, "onnx-half")
    assert result.notes == ("values too large for float16, left in float32: m",)
    np.testing.assert_allclose(answers(path, rows), rows, rtol=0.02)


def test_dynamic_quantises_matrices(tmp_path):
    rows = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    path, result = made(make_dynamic, root_of(tmp_path, dense(), rows), tmp_path, "onnx-dynamic")
    assert result.integer_share == pytest.approx(1.0)
    assert sqnr_db(answers(tmp_path / "net.onnx", rows), answers(path, rows)) > 25


def dense():
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.normal(size=(48, 32)).astype(np.float32),
        "b": rng.normal(size=48).astype(np.float32),
        "v": rng.normal(size=(48, 7)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return build(nodes, {"x": (1, 32)}, {"y": (1, 7)}, weights)


@pytest.mark.parametrize(("bits", "least_db"), [(4, 15), (8, 30)])
def test_weights_in_few_bits(tmp_path, bits, least_db):
    rows = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    path, result = made(make_int4, root_of(tmp_path, dense(), rows), tmp_path, "onnx-int4", bits=bits)
    assert operators(path).count("MatMulNBits") == 2
    assert result.notes == (f"100.0% of the multiply-adds use {bits}-bit weights",)
    assert sqnr_db(answers(tmp_path / "net.onnx", rows), answers(path, rows)) > least_db


def test_weights_in_few_bits_want_a_matrix(tmp_path):
    weights = {"w": np.ones((2, 3, 1, 1), np.float32)}
    model = chain(
        helper.make_node("Conv", ["x", "w"], ["y"]), weights=weights, shape=(1, 3, 4, 4), out=(1, 2, 4, 4)
    )
    with pytest.raises(ModelError, match="nothing to quantise: .* the model has 1 Conv"):
        made(make_int4, root_of(tmp_path, model), tmp_path, "onnx-int4")
    with pytest.raises(ModelError, match="no such layer"):
        qdq.quantise_dynamic(chain(helper.make_node("Relu", ["x"], ["y"])))
    with pytest.raises(ConfigError, match="want 4 or 8, got 3"):
        made(make_int4, root_of(tmp_path, model), tmp_path, "onnx-int4", name="three", bits=3)


def test_myriad_gets_opset_11_with_the_same_answers(tmp_path):
    root = picture_root(tmp_path)
    path, _ = made(make_myriad, root, tmp_path, "myriad")
    model = onnx.load(str(path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    assert model.ir_version == 6
    onnx.checker.check_model(model)
    _, pixels = pictures()
    np.testing.assert_allclose(answers(path, pixels), answers(tmp_path / "net.onnx", pixels), atol=1e-4)


def test_myriad_in_16_bits_stands_in_an_order_that_its_old_reader_takes(tmp_path):
    path, _ = made(make_myriad, picture_root(tmp_path), tmp_path, "myriad", precision="fp16")
    known = {"image"} | {tensor.name for tensor in onnx.load(str(path)).graph.initializer}
    for node in onnx.load(str(path)).graph.node:
        assert set(node.input) - {""} <= known
        known |= set(node.output)


def test_newer_spellings_become_the_old_ones_for_myriad(tmp_path):
    axes = {"axes": np.array([1], np.int64), "parts": np.array([2, 2], np.int64)}
    model = chain(
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("HardSwish", ["u"], ["h"]),
        helper.make_node("Squeeze", ["h", "axes"], ["s"]),
        helper.make_node("Split", ["s", "parts"], ["a", "b"], axis=1),
        helper.make_node("Concat", ["b", "a"], ["c"], axis=1),
        helper.make_node("Softmax", ["c"], ["y"]),
        weights=axes,
    )
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    path, _ = made(make_myriad, root_of(tmp_path, model, rows), tmp_path, "myriad")
    assert "HardSwish" not in operators(path)
    np.testing.assert_allclose(answers(path, rows), answers(tmp_path / "net.onnx", rows), atol=1e-5)


def test_softmax_over_the_last_axis_keeps_its_meaning_and_over_another_is_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(8, 2, 4)).astype(np.float32)
    last = chain(helper.make_node("Softmax", ["x"], ["y"]), shape=(1, 2, 4))
    path, _ = made(make_myriad, root_of(tmp_path, last, rows), tmp_path, "myriad")
    np.testing.assert_allclose(answers(path, rows), answers(tmp_path / "net.onnx", rows), atol=1e-6)
    other = chain(helper.make_node("Softmax", ["x"], ["y"], axis=1), shape=(1, 2, 4))
    with pytest.raises(ModelError, match="output 'y' differs by"):
        made(make_myriad, root_of(tmp_path, other, rows), tmp_path, "myriad", name="other")


def test_a_layer_that_opset_11_has_not_is_named(tmp_path):
    weights = {"g": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    model = chain(helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"]), weights=weights)
    rows = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    with pytest.raises(
        ModelError, match=r"layer 'y' \(LayerNormalization\) cannot be written in ONNX opset 11"
    ):
        made(make_myriad, root_of(tmp_path, model, rows), tmp_path, "myriad")


def test_every_maker_writes_the_classifier_under_its_canonical_names(tmp_path):
    root = picture_root(tmp_path, classifier(opset=13))
    for number, maker in enumerate((make_static, make_half, make_dynamic, make_int4, make_myriad)):
        path, result = made(maker, root, tmp_path, name=str(number))
        assert [value.name for value in session(path).get_inputs()] == ["image"]
        assert [value.name for value in session(path).get_outputs()] == ["scores"]
        assert (result.inputs, result.outputs) == ({}, {})
