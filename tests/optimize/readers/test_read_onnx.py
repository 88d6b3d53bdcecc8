"""An ONNX model becomes a root, or the error names the reason."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.errors import ConfigError, ModelError, TensorError, UsageError
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.readers.memory import check_memory, memory_available_bytes
from edgekit_optimize.readers.onnx_source import canonical_onnx
from edgekit_optimize.readers.read import check_root, kind_of, read_source, source_files
from optimize.nets import every_kind, run_onnx

RNG = np.random.default_rng(5)


def constant(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(RNG.normal(0, 0.3, shape).astype(dtype), name)


def tensor(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, list(shape))


def model_of(nodes, inputs, outputs, constants=(), opset=17, **fields):
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(constants))
    domains = fields.pop("domains", ())
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    found = helper.make_model(graph, opset_imports=imports, **fields)
    found.ir_version = 8
    return found


def small(batch="N", height="H", opset=17):
    """Return an image model: convolution, batch normalisation, identity, pooling; free sizes by default."""
    body = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Identity", ["n"], ["i"]),
        helper.make_node("Relu", ["i"], ["r"], name="rectify"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    spread = numpy_helper.from_array(np.abs(RNG.normal(1, 0.2, 4)).astype(np.float32), "v")
    weights = [constant("w", 4, 3, 3, 3), constant("s", 4), constant("b", 4), constant("m", 4), spread]
    inputs = [tensor("x", batch, 3, height, 12)]
    return model_of(body, inputs, [tensor("y", batch, 4)], weights, opset=opset)


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return str(path)


def images(count=3, height=12):
    return {"x": RNG.normal(size=(count, 3, height, 12)).astype(np.float32)}


def test_a_model_with_a_free_batch_becomes_static_folded_and_named(tmp_path):
    root, origin = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    graph = onnx.load(root.onnx).graph
    assert [tuple(spec.shape) for spec in (*root.inputs, *root.outputs)] == [(1, 3, 12, 12), (1, 4)]
    assert (root.image, root.layout, root.canonical) == ("x", "NCHW", "onnx")
    operators = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in operators
    assert "Identity" not in operators
    names = [node.name for node in graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert origin.kind == "onnx"
    assert len(origin.sha256) == 64
    assert "onnxruntime" in origin.tools
    assert origin.notes


def test_every_conversion_is_checked_against_the_source_on_real_inputs(tmp_path):
    root, _ = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    checked = check_root(root, images())
    made = {"onnx", "openvino", "tflite"} - root.missing.keys()
    assert len(checked.checks) == len(made)
    assert all(check.holds and check.samples == 3 and check.scale > 0 for check in checked.checks)
    assert any(check.conversion == "ONNX to OpenVINO" for check in checked.checks)


def test_reading_twice_gives_the_same_bytes(tmp_path):
    model = saved(small(height=12), tmp_path / "net.onnx")
    first, _ = read_source(model, tmp_path / "a")
    second, _ = read_source(model, tmp_path / "b")
    for one, other in ((first.onnx, second.onnx), (first.openvino, second.openvino)):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_free_dimensions_take_the_shape_that_is_given(tmp_path):
    model = saved(small(), tmp_path / "net.onnx")
    root, _ = read_source(model, tmp_path / "by_name", shapes={"x": (1, 3, 20, 12)})
    assert root.inputs[0].shape == (1, 3, 20, 12)
    root, _ = read_source(model, tmp_path / "by_place", shapes={"": (1, 3, 16, 12)})
    assert root.inputs[0].shape == (1, 3, 16, 12)
    sample = {"x": np.zeros((1, 3, 14, 12), np.float32)}
    root, _ = read_source(model, tmp_path / "by_sample", sample=sample)
    assert root.inputs[0].shape == (1, 3, 14, 12)


def test_a_dimension_that_stays_free_is_named_with_the_flag_that_fixes_it(tmp_path):
    with pytest.raises(ModelError, match=r"input 'x' is \[1, 3, H, 12\]") as caught:
        read_source(saved(small(), tmp_path / "net.onnx"), tmp_path / "root")
    assert "--shape x=" in caught.value.hint


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3, 12, 12)}, "no input 'z'; its inputs are x"),
        ({"x": (1, 5, 12, 12)}, r"cannot become \[1, 5, 12, 12\]"),
        ({"x": (1, 3, 12)}, "cannot become"),
        ({"x": (1, 3, 0, 12)}, "cannot become"),
    ],
)
def test_a_shape_that_the_model_cannot_have_is_a_usage_error(tmp_path, shapes, message):
    with pytest.raises(UsageError, match=message):
        read_source(saved(small(), tmp_path / "net.onnx"), tmp_path / "root", shapes=shapes)


def test_one_symbol_has_one_value_in_every_input(tmp_path):
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    inputs = [tensor("a", 1, "T"), tensor("b", 1, "T")]
    model = saved(model_of(nodes, inputs, [tensor("y", 1, "T")]), tmp_path / "net.onnx")
    root, _ = read_source(model, tmp_path / "root", shapes={"a": (1, 7)})
    assert [spec.shape for spec in (*root.inputs, *root.outputs)] == [(1, 7)] * 3
    with pytest.raises(UsageError, match="2 inputs, so a shape must name its input: a, b"):
        read_source(model, tmp_path / "root", shapes={"": (1, 7)})


def test_a_fixed_batch_becomes_one(tmp_path):
    root, _ = read_source(saved(small(batch=8, height=12), tmp_path / "net.onnx"), tmp_path / "root")
    assert (root.inputs[0].shape, root.outputs[0].shape) == ((1, 3, 12, 12), (1, 4))


@pytest.mark.parametrize("opset", [7, 11])
def test_an_older_opset_is_upgraded_without_changing_outputs(tmp_path, opset):
    root, origin = read_source(saved(small(height=12, opset=opset), tmp_path / "net.onnx"), tmp_path / "root")
    assert onnx.load(root.onnx).opset_import[0].version == 13
    assert f"upgraded from ONNX opset {opset} to 13" in origin.notes
    assert check_root(root, images()).checks[0].holds


def test_constants_listed_as_inputs_are_removed_from_the_inputs(tmp_path):
    model = small(height=12)
    model.graph.input.append(tensor("w", 4, 3, 3, 3))
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert [spec.name for spec in root.inputs] == ["x"]


@pytest.mark.parametrize(("bad", "operator"), [(np.nan, "first' .Conv"), (np.inf, "first' .Conv")])
def test_a_weight_that_is_no_number_is_named_with_its_node(tmp_path, bad, operator):
    model = small(height=12)
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    with pytest.raises(ModelError, match=f"weight 'w' of node '{operator}.* 1 of 108 values") as caught:
        read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert "checkpoint" in caught.value.hint


def test_an_infinite_mask_is_accepted(tmp_path):
    mask = numpy_helper.from_array(np.array([[0, -np.inf, 0]], np.float32), "mask")
    nodes = [helper.make_node("Add", ["x", "mask"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])]
    model = model_of(nodes, [tensor("x", 1, 3)], [tensor("y", 1, 3)], [mask])
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert check_root(root, {"x": RNG.normal(size=(2, 3)).astype(np.float32)}).checks[0].holds


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Blend", ["x"], ["y"], name="mix", domain="acme"), "'mix' .Blend. .* 'acme'"),
        (helper.make_node("FusedConv", ["x", "w"], ["y"], name="fused", domain="com.microsoft"), "FusedConv"),
        (helper.make_node("Magic", ["x"], ["y"], name="spell"), "'spell' .Magic. is not an operator of ONNX"),
        (helper.make_node("QuantizeLinear", ["x", "s"], ["y"], name="q"), "'q' .QuantizeLinear. quantises"),
    ],
)
def test_an_operator_that_cannot_be_converted_is_named(tmp_path, node, message):
    model = model_of([node], [tensor("x", 1, 3)], [tensor("y", 1, 3)], domains=["acme", "com.microsoft"])
    with pytest.raises(ModelError, match=message):
        read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")


def test_a_node_that_onnx_runtime_rejects_is_named(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="layer7")]
    ends = [tensor(name, 1, 3, 8, 8, kind=TensorProto.DOUBLE) for name in "xy"]
    model = model_of(nodes, ends[:1], ends[1:], [constant("w", 3, 3, 1, 1, dtype=np.float64)])
    with pytest.raises(ModelError, match=r"rejects node 'layer7' \(Conv\)") as caught:
        read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert "float64" in caught.value.hint


def test_what_loads_but_does_not_run_is_named(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="layer7")]
    model = model_of(nodes, [tensor("x", 1, 5, 8, 8)], [tensor("y", 1, 4, 6, 6)], [constant("w", 4, 3, 3, 3)])
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    with pytest.raises(ModelError, match="loads but does not run: .*layer7"):
        check_root(root, {"x": np.ones((1, 5, 8, 8), np.float32)})


def test_a_form_whose_outputs_differ_is_left_out_and_the_others_stay(tmp_path):
    root, _ = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    other, _ = read_source(saved(small(height=12), tmp_path / "other.onnx"), tmp_path / "other")
    for suffix in (".xml", ".bin"):
        Path(root.openvino).with_suffix(suffix).write_bytes(
            Path(other.openvino).with_suffix(suffix).read_bytes()
        )
    checked = check_root(root, images())
    assert (checked.onnx, checked.tflite, checked.openvino) == (root.onnx, root.tflite, "")
    assert "ONNX to OpenVINO by openvino" in checked.missing["openvino"]
    assert "output 'y' differs by" in checked.missing["openvino"]
    assert [check.holds for check in checked.checks] == [True, False, True]


def test_the_canonical_form_must_have_its_sources_outputs(tmp_path):
    root, _ = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    other, _ = read_source(saved(small(height=12), tmp_path / "other.onnx"), tmp_path / "other")
    Path(root.onnx).write_bytes(Path(other.onnx).read_bytes())
    with pytest.raises(ModelError, match="ONNX to canonical ONNX by .* changed the model"):
        check_root(root, images())


def test_an_input_of_a_single_number_has_no_axis_in_any_form(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"])]
    model = model_of(nodes, [tensor("x", 1, 4), tensor("s")], [tensor("y", 1, 4)])
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    samples = {"x": np.ones((2, 4), np.float32), "s": np.float32([2, 3])}
    checked = check_root(root, samples)
    assert checked.openvino
    assert all(check.holds for check in checked.checks)


def test_a_layer_that_depends_on_a_larger_batch_is_named(tmp_path):
    model = small(batch=4, height=12)
    model.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["p", "size"], ["y"], name="view"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 4]), "size"))
    with pytest.raises(
        ModelError, match=r"fixed batch of 4, which node 'view' \(Reshape\) depends on"
    ) as caught:
        read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert "batch of 1" in caught.value.hint


def test_allowzero_is_removed_from_shapes_without_zeros(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1)]
    sizes = numpy_helper.from_array(np.array([1, -1]), "s")
    model = model_of(nodes, [tensor("x", 1, 2, 4)], [tensor("y", 1, 8)], [sizes])
    canonical_onnx(Path(saved(model, tmp_path / "net.onnx")), tmp_path / "canonical.onnx", {}, {})
    assert not onnx.load(tmp_path / "canonical.onnx").graph.node[0].attribute


def test_an_output_of_unknown_shape_is_not_taken_for_a_scalar(tmp_path):
    ends = [tensor("go", kind=TensorProto.BOOL), tensor("state", 1, 4)]
    body = helper.make_graph(
        [helper.make_node("Relu", ["state"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [tensor("turn", kind=TensorProto.INT64), *ends],
        [tensor("on", kind=TensorProto.BOOL), tensor("next", 1, 4)],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], name="again", body=body)]
    trips = numpy_helper.from_array(np.array(3), "trips")
    model = model_of(nodes, [tensor("x", 1, 4)], [tensor("y", 1, 4)], [trips])
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert root.outputs[0].shape == (-1, -1)


def test_a_model_without_input_or_operator_is_refused(tmp_path):
    model = model_of([helper.make_node("Relu", ["w"], ["y"])], [], [tensor("y", 3)], [constant("w", 3)])
    with pytest.raises(ModelError, match="takes no input"):
        read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    empty = model_of([], [tensor("x", 1, 3)], [tensor("x", 1, 3)])
    with pytest.raises(ModelError, match="without any operator"):
        read_source(saved(empty, tmp_path / "empty.onnx"), tmp_path / "root")


def test_a_pointer_of_git_lfs_is_known(tmp_path):
    (tmp_path / "net.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match="is not ONNX") as caught:
        read_source(str(tmp_path / "net.onnx"), tmp_path / "root")
    assert "git lfs pull" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 500])
def test_a_file_that_is_cut_off_is_refused(tmp_path, keep):
    data = write_onnx(every_kind())
    (tmp_path / "net.onnx").write_bytes(data[:keep])
    with pytest.raises(ModelError, match=r"net\.onnx"):
        read_source(str(tmp_path / "net.onnx"), tmp_path / "root")


@pytest.mark.parametrize("data", [b"\x00" * 64, b"PK\x03\x04 a zip", b"\xff" * 300, b"<html></html>"])
def test_what_is_not_onnx_is_refused(tmp_path, data):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"net\.onnx is not ONNX"):
        read_source(str(tmp_path / "net.onnx"), tmp_path / "root")


def test_a_model_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.onnx does not exist"):
        read_source(str(tmp_path / "nothing.onnx"), tmp_path / "root")


def external(tmp_path, location="weights.bin"):
    model = small(height=12)
    path = tmp_path / "net.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_external_weights_are_read_and_hashed(tmp_path):
    path = external(tmp_path)
    root, origin = read_source(str(path), tmp_path / "root")
    assert check_root(root, images()).checks[0].holds
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes() + b"\0")
    assert read_source(str(path), tmp_path / "again")[1].sha256 != origin.sha256
    assert source_files(path) == (path, tmp_path / "weights.bin")


def test_missing_external_weights_are_named(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"external weights 'weights\.bin' are missing"):
        read_source(str(path), tmp_path / "root")


def test_external_weights_may_not_leave_the_models_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    with pytest.raises(ModelError, match="are outside the model's folder"):
        read_source(saved(model, tmp_path / "inner" / "net.onnx"), tmp_path / "root")


def test_inputs_of_other_types_are_kept(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    model = model_of(
        nodes,
        [tensor("ids", "N", 6, kind=TensorProto.INT64)],
        [tensor("y", "N", 6, 5)],
        [constant("table", 9, 5)],
    )
    root, _ = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert (root.inputs[0].datatype, root.inputs[0].shape) == ("INT64", (1, 6))
    assert check_root(root, {"ids": np.arange(12).reshape(2, 6).astype(np.float32) % 9}).checks[0].holds


def test_a_network_with_every_kind_of_layer_is_read(tmp_path):
    network = every_kind()
    (tmp_path / "net.onnx").write_bytes(write_onnx(network))
    root, _ = read_source(str(tmp_path / "net.onnx"), tmp_path / "root")
    feeds = {"x": RNG.normal(size=(1, 13, 17, 3)).astype(np.float32)}
    found = run_onnx(Path(root.onnx).read_bytes(), feeds)
    for name, wanted in run_onnx(write_onnx(network), feeds).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-5)


def test_too_little_memory_names_both_numbers():
    with pytest.raises(ConfigError, match="takes about 5000 MiB of memory, 600 MiB is available"):
        check_memory("big.onnx", 1000 << 20, 600 << 20)
    check_memory("big.onnx", 1000 << 20, 5001 << 20)


def test_a_model_larger_than_a_protobuf_message_is_refused():
    with pytest.raises(ModelError, match="at most 2047 MiB"):
        check_memory("big.onnx", 1 << 31, 1 << 40)


def test_available_memory_is_read_from_the_kernel(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 42 kB\n")
    assert memory_available_bytes(tmp_path / "meminfo") == 42 * 1024
    assert memory_available_bytes(tmp_path / "none") is None


def test_samples_that_do_not_fit_are_refused(tmp_path):
    root, _ = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    with pytest.raises(TensorError, match="no samples for input 'x'"):
        check_root(root, {"z": np.zeros((1, 3), np.float32)})
    with pytest.raises(TensorError, match=r"want \(n, 3, 12, 12\)"):
        check_root(root, {"x": np.zeros((2, 12, 12, 3), np.float32)})
    with pytest.raises(TensorError, match="at least one"):
        check_root(root, {"x": np.zeros((0, 3, 12, 12), np.float32)})


def test_a_conversion_that_changed_the_model_is_named_with_its_worst_output(tmp_path):
    root, _ = read_source(saved(small(height=12), tmp_path / "net.onnx"), tmp_path / "root")
    changed = onnx.load(root.onnx)
    changed.graph.node[-1].op_type = "Identity"  # a shape [1, 4, 1, 1], and nothing else
    wrong = small(height=12)
    (tmp_path / "root" / "model.onnx").write_bytes(wrong.SerializeToString())
    with pytest.raises(ModelError, match="ONNX to canonical ONNX .* output 'y' differs by"):
        check_root(root, images())


def test_a_source_whose_output_is_nan_is_refused(tmp_path):
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    model = saved(model_of(nodes, [tensor("x", 1, 3)], [tensor("y", 1, 3)]), tmp_path / "net.onnx")
    root, _ = read_source(model, tmp_path / "root")
    with pytest.raises(ModelError, match="output 'y' is NaN for sample 1"):
        check_root(root, {"x": np.array([[1, 1, 1], [1, -1, 1]], np.float32)})


@pytest.mark.parametrize("model", ["net.pb", "net", "a b:c", "net:", "", ":build"])
def test_a_file_that_is_not_a_model_is_refused_with_the_supported_kinds(model):
    with pytest.raises(UsageError) as caught:
        kind_of(model)
    assert any("module:function" in reason for reason in caught.value.reasons)


@pytest.mark.parametrize("model", ["net.pt", "net.pth", "net.safetensors"])
def test_weights_alone_are_refused_with_a_hint(model):
    with pytest.raises(UsageError) as caught:
        kind_of(model)
    assert "module:function" in caught.value.hint


def test_a_half_precision_model_is_widened_without_loss(tmp_path):
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["f"], ["h"], to=half),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    ends = [tensor("x", "N", 3, 8, 8, kind=half), tensor("y", "N", 4, 6, 6, kind=half)]
    model = model_of(nodes, ends[:1], ends[1:], [constant("w", 4, 3, 3, 3, dtype=np.float16)])
    root, origin = read_source(saved(model, tmp_path / "net.onnx"), tmp_path / "root")
    assert {spec.datatype for spec in (*root.inputs, *root.outputs)} == {"FP32"}
    assert "widened from half precision to float32" in origin.notes
    assert check_root(root, {"x": images(2, 8)["x"][..., :8]}).checks[0].holds


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 0.99))
def test_a_file_cut_anywhere_is_an_error_and_no_crash(share):
    data = small(height=12).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelError, match="net.onnx"):
            canonical_onnx(path, Path(folder) / "model.onnx", {}, {})
