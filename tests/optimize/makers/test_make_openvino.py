"""What OpenVINO's candidates hold and compute, run with OpenVINO."""

import logging

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper

from edgekit.core.errors import ConfigError, ModelError, TensorError, UsageError
from edgekit.core.spec import Pre, TensorSpec
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.tflite import write_tflite
from edgekit_optimize.makers import graph
from edgekit_optimize.makers.openvino import make_float, make_static, make_weights
from edgekit_optimize.plan import Root
from optimize.nets import every_kind

from .onnx_nets import answers as onnx_answers
from .onnx_nets import chain, classifier, picture_root, pictures, plan, root_of, sqnr_db


def made(maker, root, tmp_path, technique="openvino-static", name="out", **fields):
    folder = tmp_path / name
    folder.mkdir()
    result = maker(root, plan(technique, backend="openvino", **fields), folder)
    assert result.files == ("model.xml", "model.bin")
    return folder / result.files[0], result


def compiled(path):
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(str(path), "CPU", settings)


def answers(path, samples):
    """Return the first output of each sample, run one at a time."""
    request = compiled(path).create_infer_request()
    return np.stack([np.array(request.infer([sample[None]])[0][0]) for sample in samples])


def constants(path, kind):
    import openvino

    operations = openvino.Core().read_model(str(path)).get_ops()
    return [
        op
        for op in operations
        if op.get_type_name() == "Constant" and op.get_element_type().get_type_name() == kind
    ]


def test_the_float_file_computes_what_the_root_does_under_its_names(tmp_path):
    root = picture_root(tmp_path)
    path, result = made(make_float, root, tmp_path, "openvino-float")
    _, pixels = pictures()
    np.testing.assert_allclose(answers(path, pixels), onnx_answers(tmp_path / "net.onnx", pixels), atol=1e-4)
    assert (result.inputs, result.outputs, result.layout) == ({}, {}, "NCHW")
    assert [port.any_name for port in compiled(path).inputs] == ["image"]


def test_half_stores_weights_in_16_bits(tmp_path):
    root = picture_root(tmp_path)
    path, _ = made(make_float, root, tmp_path, "openvino-float", half=True)
    assert constants(path, "f16")
    _, pixels = pictures()
    assert sqnr_db(onnx_answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 40


def test_static_int8_stays_near_the_float_model_and_says_what_runs_on_integers(tmp_path, capfd):
    root = picture_root(tmp_path)
    path, result = made(make_static, root, tmp_path)
    assert constants(path, "i8")
    _, pixels = pictures()
    assert sqnr_db(onnx_answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > 20
    assert 0.0 <= result.integer_share <= 1.0
    assert any("run on integers in OpenVINO on this CPU" in note for note in result.notes)
    assert result.tools.keys() == {"openvino", "nncf"}
    assert capfd.readouterr().out == ""


def test_the_same_plan_makes_the_same_bytes(tmp_path):
    root = picture_root(tmp_path)
    for name in ("first", "second"):
        made(make_static, root, tmp_path, name=name)
    for file in ("model.xml", "model.bin"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_layer_kept_in_float_has_float_weights(tmp_path):
    """Layers are named as in the ONNX form: the first one's name is lost when its batch norm is fused."""
    path, _ = made(make_static, picture_root(tmp_path), tmp_path, keep_float=("c1", "scores"))
    assert [len(list(op.output(0).get_shape())) for op in constants(path, "i8")] == [5]  # c2, depthwise
    with pytest.raises(ModelError, match="no layer 'c9'"):
        made(make_static, picture_root(tmp_path), tmp_path, name="other", keep_float=("c9",))


def test_one_scale_for_all_channels_and_percentile_ranges_are_nncfs_too(tmp_path):
    root = picture_root(tmp_path)
    path, _ = made(make_static, root, tmp_path, per_channel=False, ranges="percentile", fast_bias=False)
    assert constants(path, "i8")
    with pytest.raises(ConfigError, match="want minmax or percentile"):
        made(make_static, root, tmp_path, name="other", ranges="entropy")


@pytest.mark.parametrize("mean_std", [((127.0,), (128.0,)), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))])
def test_a_file_that_takes_bytes_computes_the_same(tmp_path, mean_std):
    pixels, _ = pictures()
    mean, std = (np.asarray(values, np.float32) for values in mean_std)
    samples = ((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    root = root_of(
        tmp_path,
        classifier(),
        samples,
        pre=Pre(mean=mean_std[0], std=mean_std[1]),
        image="image",
        layout="NCHW",
    )
    path, result = made(make_float, root, tmp_path, "openvino-float", pixels=True)
    assert result.layout == "NHWC"
    assert compiled(path).input(0).get_element_type().get_type_name() == "u8"
    assert list(compiled(path).input(0).shape) == [1, 16, 16, 3]
    np.testing.assert_allclose(answers(path, pixels), onnx_answers(tmp_path / "net.onnx", samples), atol=1e-4)


def test_a_sensor_model_takes_no_bytes(tmp_path):
    model = chain(helper.make_node("Relu", ["x"], ["y"]))
    with pytest.raises(UsageError, match="takes an image"):
        made(make_float, root_of(tmp_path, model), tmp_path, "openvino-float", pixels=True)


@pytest.mark.parametrize(("bits", "kind", "least_db"), [(8, "i8", 30), (4, "i4", 5)])
def test_weights_alone(tmp_path, bits, kind, least_db):
    root = picture_root(tmp_path)
    path, result = made(make_weights, root, tmp_path, "openvino-weights", bits=bits)
    assert constants(path, kind)
    assert any(note.endswith(f"in {kind}") for note in result.notes)
    _, pixels = pictures()
    assert sqnr_db(onnx_answers(tmp_path / "net.onnx", pixels), answers(path, pixels)) > least_db


def test_a_model_without_weights_has_nothing_to_compress(tmp_path):
    root = root_of(tmp_path, chain(helper.make_node("Relu", ["x"], ["y"])))
    with pytest.raises(ModelError, match="no layer has weights to compress"):
        made(make_weights, root, tmp_path, "openvino-weights")
    with pytest.raises(ConfigError, match="want 8 or 4, got 5"):
        made(make_weights, root, tmp_path, "openvino-weights", name="five", bits=5)


def test_a_root_that_is_tflite_or_an_ir_keeps_its_names_and_layout(tmp_path):
    network = every_kind()
    (tmp_path / "net.tflite").write_bytes(write_tflite(network))
    shapes = network.shapes()
    root = Root(
        tflite=str(tmp_path / "net.tflite"),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=shapes["x"]),),
        outputs=tuple(TensorSpec(name=n, datatype="FP32", shape=shapes[n]) for n in network.outputs),
        image="x",
        layout="NHWC",
    )
    samples = np.random.default_rng(0).normal(size=(8, *shapes["x"][1:])).astype(np.float32)
    np.savez(tmp_path / "calibration.npz", x=samples)
    root = replace(root, calibration=str(tmp_path / "calibration.npz"))
    path, result = made(make_float, root, tmp_path, "openvino-float", name="first")
    again = replace(root, tflite="", openvino=str(path))
    quantised, other = made(make_static, again, tmp_path, name="second")
    wanted = network.run({"x": samples[:1]})
    for file, facts, least_db in ((path, result, 80), (quantised, other, 20)):
        assert facts.layout == "NHWC"
        request = compiled(file).create_infer_request()
        request.infer({facts.inputs.get("x", "x"): samples[:1]})
        for name in network.outputs:
            found = request.get_tensor(facts.outputs.get(name, name)).data
            assert sqnr_db(wanted[name], found) > least_db


def test_what_is_at_fault_is_named(tmp_path):
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    root = replace(picture_root(tmp_path), onnx=str(tmp_path / "free.onnx"))
    onnx.save(model, root.onnx)
    with pytest.raises(ModelError, match="input 'image' has the free shape"):
        made(make_float, root, tmp_path, "openvino-float")
    odd = chain(helper.make_node("Unheard", ["x"], ["y"], domain="org.nowhere"))
    odd.opset_import.add(domain="org.nowhere", version=1)
    level = logging.getLogger().level
    with pytest.raises(ModelError, match=r"cannot read layer 'y' \(Unheard\)"):
        made(make_float, root_of(tmp_path, odd), tmp_path, "openvino-float", name="odd")
    assert logging.getLogger().level == level  # OpenVINO leaves it at ERROR when it fails
    (tmp_path / "net.onnx").write_bytes(write_onnx(every_kind()))
    assert graph.read(tmp_path / "net.onnx")
    with pytest.raises(TensorError, match="all 4 samples are equal"):
        made(
            make_static, root_of(tmp_path, classifier(), np.zeros((4, 3, 16, 16))), tmp_path, name="constant"
        )
