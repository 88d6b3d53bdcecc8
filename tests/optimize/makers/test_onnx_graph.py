"""Reading, checking and naming what makers are given: graphs and calibration samples."""

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.core.errors import ModelError, TensorError
from edgekit_optimize.makers import cuts, graph, qdq
from edgekit_optimize.makers.ranges import METHODS, _entropy, observe
from edgekit_optimize.makers.samples import calibration

from .onnx_nets import SIDE, chain, classifier, picture_root, pictures, root_of, session


def read(tmp_path, model):
    onnx.save(model, str(tmp_path / "net.onnx"))
    return graph.read(tmp_path / "net.onnx")


def test_layers_are_known_by_their_output_and_share_the_work(tmp_path):
    facts = graph.layers_of(read(tmp_path, classifier()))
    half = SIDE // 2
    counts = {"c1": 8 * half * half * 27, "c2": 8 * half * half * 9, "scores": 80}
    assert {fact.name: fact.count for fact in facts} == counts
    assert sum(fact.multiply_adds for fact in facts) == pytest.approx(1.0)
    assert [fact.operator for fact in facts] == ["Conv", "Conv", "Gemm"]


def test_every_node_gets_a_name_of_its_own(tmp_path):
    names = [node.name for node in read(tmp_path, classifier()).graph.node]
    assert "" not in names
    assert len(set(names)) == len(names)


def test_an_old_model_is_raised_to_the_opset_that_int8_needs(tmp_path):
    model = read(tmp_path, chain(helper.make_node("Relu", ["x"], ["y"]), opset=9))
    assert graph.opset(model) == 13


def test_a_file_that_is_not_onnx_is_an_error(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"net\.onnx is not an ONNX file"):
        graph.read(tmp_path / "net.onnx")


def test_a_free_dimension_is_refused_with_the_inputs_name(tmp_path):
    model = classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ModelError, match=r"input 'image' has the free shape \('batch', 3"):
        read(tmp_path, model)


def test_weights_that_are_not_finite_are_refused_with_the_layers_name(tmp_path):
    model = classifier()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    values = onnx.numpy_helper.to_array(weights).copy()
    values[3, 0, 1, 1] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    with pytest.raises(ModelError, match=r"constant 'w2' of layer 'c2' \(Conv\)"):
        read(tmp_path, model)


def test_a_layer_is_found_again_after_its_batch_norm_went_into_it(tmp_path):
    original = read(tmp_path, classifier())
    folded = qdq.fold(original)
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    (name,) = graph.nodes_named(original, folded, ("c1",))
    assert next(node.output[0] for node in folded.graph.node if node.name == name) == "n1"
    with pytest.raises(ModelError, match="no layer 'c9'") as caught:
        graph.nodes_named(original, folded, ("c9",))
    assert "'c1', 'c2', 'scores'" in caught.value.hint


def test_a_tools_complaint_is_pinned_on_the_node_it_names(tmp_path):
    model = read(tmp_path, classifier())
    assert graph.blamed(model, "bad shape in Conv:c2 node") == "layer 'c2' (Conv)"
    assert graph.blamed(model, "no kernel for GlobalAveragePool(1)") == "layer 'pooled' (GlobalAveragePool)"
    assert graph.blamed(model, "out of memory") == "the model"


def test_both_parts_of_a_cut_together_are_the_model(tmp_path):
    model = read(tmp_path, classifier())
    feed = {"image": pictures(1)[1]}
    whole = session(tmp_path / "net.onnx").run(None, feed)[0]
    found = cuts.bridges(model)
    assert "c2" not in found.values()  # the residual passes it by
    assert {"r1", "sum", "flat"} <= set(found.values())
    for place, name in found.items():
        onnx.save(cuts.part(model, 0, "", place, name), str(tmp_path / "head.onnx"))
        onnx.save(cuts.part(model, place, name), str(tmp_path / "tail.onnx"))
        (between,) = session(tmp_path / "head.onnx").run(None, feed)
        np.testing.assert_allclose(
            session(tmp_path / "tail.onnx").run(None, {name: between})[0], whole, atol=1e-5
        )


# ---------------------------------------------------------------------------------------------
# Calibration samples


def test_samples_are_taken_evenly_one_inference_each(tmp_path):
    root = picture_root(tmp_path)
    chosen = calibration(root, limit=3)
    assert [feed["image"].shape for feed in chosen] == [(1, 3, SIDE, SIDE)] * 3
    pixels = pictures()[1]
    for feed, at in zip(chosen, (0, 11, 23), strict=True):
        np.testing.assert_array_equal(feed["image"][0], pixels[at])


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((8, 3, 9, 9), np.float32), r"want samples of \(1, 3, 16, 16\), got"),
        (np.ones((8, 3, SIDE, SIDE), np.float32), "all 8 samples are equal"),
        (np.full((8, 3, SIDE, SIDE), np.nan, np.float32), "not finite"),
        (np.zeros((0, 3, SIDE, SIDE), np.float32), "same number of samples"),
    ],
)
def test_calibration_data_that_does_not_fit_is_refused_with_the_tensors_name(tmp_path, samples, message):
    with pytest.raises(TensorError, match=message) as caught:
        calibration(root_of(tmp_path, classifier(), samples))
    assert "image" in caught.value.message
    assert caught.value.hint


def test_missing_calibration_data_is_an_error(tmp_path):
    root = root_of(tmp_path, classifier())
    with pytest.raises(TensorError, match="no calibration data"):
        calibration(root)
    np.savez(tmp_path / "calibration.npz", other=np.zeros((4, 2)))
    from msgspec.structs import replace

    with pytest.raises(TensorError, match="no array for input 'image', found 'other'"):
        calibration(replace(root, calibration=str(tmp_path / "calibration.npz")))
    (tmp_path / "calibration.npz").write_bytes(b"broken")
    with pytest.raises(TensorError, match=r"calibration\.npz"):
        calibration(replace(root, calibration=str(tmp_path / "calibration.npz")))


# ---------------------------------------------------------------------------------------------
# Ranges


def feeds_of(values):
    return [{"x": row[None].astype(np.float32)} for row in values]


def test_extremes_are_what_numpy_sees(tmp_path):
    model = read(
        tmp_path, chain(helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Exp", ["n"], ["y"]))
    )
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    ranges = observe(model, feeds_of(values))
    assert ranges["x"] == (values.min(), values.max())
    assert ranges["n"] == (-values.max(), -values.min())
    assert ranges["y"] == pytest.approx((np.exp(-values.max()), np.exp(-values.min())))


@pytest.mark.parametrize("method", METHODS)
def test_one_wild_value_widens_only_the_extremes(tmp_path, method):
    model = read(tmp_path, chain(helper.make_node("Neg", ["x"], ["y"]), shape=(1, 4096)))
    values = np.random.default_rng(0).normal(size=(16, 4096))
    values[3, 7] = 60.0
    low, high = observe(model, feeds_of(values), method)["x"]
    assert -7 < low < -2
    assert (high == 60.0) if method == "minmax" else (2 < high < 15)


def test_entropy_keeps_the_end_at_which_values_are_clamped():
    """Few values reach the clamp, so a cut looks cheap; without the clamp it is taken."""
    counts = np.round(20000 * np.exp(-np.arange(2048) / 60)).astype(np.int64)
    counts[-1] = 200
    assert _entropy(counts, (0.0, 6.0)) == (0.0, 6.0)
    counts[-1] = 1
    assert _entropy(counts, (0.0, 6.0))[1] < 3.0


def test_a_layer_whose_output_is_not_finite_is_named(tmp_path):
    model = read(
        tmp_path, chain(helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Log", ["n"], ["y"]))
    )
    with pytest.raises(ModelError, match=r"output of layer 'y' \(Log\) is not finite"):
        observe(model, feeds_of(np.ones((2, 4))))
