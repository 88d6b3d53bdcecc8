"""What is no detector: tables, sound, vectors, maps and lines of text are recognised or asked back."""

from dataclasses import replace

import numpy as np
import pytest
from imported_nets import classifier
from onnx import TensorProto, helper
from onnx_bundles import make_onnx

import edgekit
from edgekit.core.errors import BundleError
from edgekit.importer.decide import conclude
from edgekit.importer.importing import import_model
from edgekit.importer.readers import read_model_file


def identities(path, inputs, outputs):
    """A file of given inputs and outputs, each output a copy of the first input: only to be looked at."""
    nodes = [helper.make_node("Identity", [inputs[0][0]], [name]) for name, *_ in outputs]
    return make_onnx(path, nodes, inputs, outputs)


def concluded(path, **flags):
    return conclude(replace(read_model_file(path), flags=flags))


def values(conclusion):
    return {row.key: row.value for row in conclusion.findings}


def asked(path, **flags):
    with pytest.raises(BundleError, match="only you know") as caught:
        concluded(path, **flags)
    return [reason.split(":")[0] for reason in caught.value.reasons]


# -- tables


def linear(path, rows, labels, *, zip_map):
    """A classifier of two numbers, as skl2onnx writes it."""
    kind = "strings" if isinstance(labels[0], str) else "ints"
    given = {f"classlabels_{kind}": labels}
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["float_input"],
            ["output_label", "raw"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 0.0, 0.0, 1.0, -1.0, -1.0],
            intercepts=[0.0, 0.0, 0.0],
            post_transform="SOFTMAX",
            **given,
        )
    ]
    text = kind == "strings"
    output = ("raw", "FP32", [rows, 3])
    if zip_map:
        given = {f"classlabels_{'strings' if text else 'int64s'}": labels}
        nodes.append(
            helper.make_node("ZipMap", ["raw"], ["output_probability"], domain="ai.onnx.ml", **given)
        )
        key = TensorProto.STRING if text else TensorProto.INT64
        element = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        output = helper.make_value_info("output_probability", helper.make_sequence_type_proto(element))
    label = ("output_label", "BYTES" if text else "INT64", [rows])
    return make_onnx(path, nodes, [("float_input", "FP32", [rows, 2])], [label, output], ai_onnx_ml=1)


@pytest.mark.parametrize("zip_map", [True, False])
@pytest.mark.parametrize("labels", [["fail", "ok", "warn"], [3, 5, 8]])
def test_a_classifier_of_rows_names_its_classes_itself(tmp_path, labels, zip_map):
    path = linear(tmp_path / "m.onnx", None, labels, zip_map=zip_map)
    found = values(concluded(path))
    assert (found["task"], found["decoder"]) == ("tabular", "classify")
    assert found["labels"] == tuple(map(str, labels))


def test_a_fixed_batch_of_rows_is_imported_and_answers_by_named_columns(tmp_path):
    path = linear(tmp_path / "m.onnx", 3, ["fail", "ok", "warn"], zip_map=True)
    made = import_model(path, tmp_path / "bundle", flags={"header": ["heat", "load"]})
    assert [variant.backend for variant in made.manifest.variants] == ["onnxruntime"]
    with edgekit.load(made.path) as model:
        items = model.predict({"load": 9, "heat": 1}).items
        assert [item.label for item in items] == ["ok", "fail", "warn"]
        assert sum(item.score for item in items) == pytest.approx(1)
    with pytest.raises(BundleError, match="header: 3 names, the model has 2 columns"):
        concluded(path, header="a,b,c")


def test_one_input_for_each_column_names_the_columns(tmp_path):
    nodes = [
        helper.make_node("Concat", ["temp", "load"], ["both"], axis=1),
        helper.make_node(
            "LinearRegressor", ["both"], ["variable"], domain="ai.onnx.ml", coefficients=[1.0, 1.0]
        ),
    ]
    inputs = [("temp", "FP32", [None, 1]), ("load", "FP32", [None, 1])]
    path = make_onnx(tmp_path / "m.onnx", nodes, inputs, [("variable", "FP32", [None, 1])], ai_onnx_ml=1)
    found = values(concluded(path))
    assert [column["name"] for column in found["columns"]] == ["temp", "load"]
    assert (found["task"], found["decoder"]) == ("regress", "regress")


def test_a_label_and_one_number_are_an_outlier_detector(tmp_path):
    nodes = [
        helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[1.0], offset=[0.0]),
        helper.make_node("ReduceSum", ["y"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["label"], to=TensorProto.INT64),
    ]
    outputs = [("label", "INT64", [None, 1]), ("scores", "FP32", [None, 1])]
    path = make_onnx(tmp_path / "m.onnx", nodes, [("x", "FP32", [None, 4])], outputs, ai_onnx_ml=1)
    found = values(concluded(path))
    assert (found["decoder"], found["threshold"], found["is_low"]) == ("outlier", 0.0, True)


# -- sound


def test_sileros_detector_gets_its_window_context_state_and_rate(tmp_path):
    inputs = [("input", "FP32", ["n", "m"]), ("state", "FP32", [2, "n", 128]), ("sr", "INT64", [])]
    outputs = [("output", "FP32", ["n", 1]), ("stateN", "FP32", ["a", "n", "b"])]
    conclusion = concluded(identities(tmp_path / "m.onnx", inputs, outputs))
    found = values(conclusion)
    assert (found["window"], found["context"], found["rate_hz"]) == (512, 64, 16_000)
    assert conclusion.constants == {"sr": (16_000,)}
    assert [(state.input, state.output) for state in conclusion.state] == [("state", "stateN")]
    assert conclusion.shapes == {"input": (1, 576), "state": (2, 1, 128)}


@pytest.mark.parametrize("shape", [[15_600], [1, 15_600], ["samples"]])
def test_yamnets_window_and_classes_are_recognised(tmp_path, shape):
    path = identities(tmp_path / "m.onnx", [("waveform", "FP32", shape)], [("scores", "FP32", [1, 521])])
    conclusion = concluded(path)
    found = values(conclusion)
    assert (conclusion.family, found["task"], found["window"]) == ("yamnet", "audio", 15_600)
    assert conclusion.no_real_file


# -- pictures without boxes

PICTURE = [("image", "FP32", [1, 3, 32, 32])]


def test_one_vector_for_a_picture_is_asked_back(tmp_path):
    path = classifier(tmp_path / "m.onnx")
    assert asked(path) == ["--decoder"]
    assert asked(path, decoder="classify") == ["mean=VALUE", "std=VALUE", "--labels"]
    assert asked(path, decoder="embed") == ["mean=VALUE", "std=VALUE"]


def test_a_classifier_is_imported_with_what_the_user_says_and_its_softmax_is_seen(tmp_path):
    flags = {"decoder": "classify", "labels": ["red", "green", "blue"], "mean": 0, "std": 255}
    made = import_model(classifier(tmp_path / "m.onnx"), tmp_path / "bundle", flags=flags)
    sources = {row.key: (row.value, row.source) for row in made.manifest.provenance.conclusions}
    assert sources["activation"] == ("none", "tried")
    with edgekit.load(made.path) as model:
        assert model.predict(np.full((40, 40, 3), (0, 200, 0), np.uint8)).best.label == "green"


@pytest.mark.parametrize("shape", [[1, 32, 32, 1], [1, 1, 32, 32], [1, 32, 32]])
@pytest.mark.parametrize(
    ("decoder", "task"),
    [("matte", "segment"), ("depth", "depth"), ("heatmap", "defect"), ("textmap", "text")],
)
def test_one_value_for_each_cell_is_asked_back_and_then_is_what_the_user_says(tmp_path, shape, decoder, task):
    path = identities(tmp_path / "m.onnx", PICTURE, [("out", "FP32", shape)])
    assert asked(path) == ["--decoder"]
    assert values(concluded(path, decoder=decoder))["task"] == task


@pytest.mark.parametrize(
    ("task", "output", "decoder"),
    [("semantic", ("UINT8", [1, 32, 32]), "segment"), ("depth", ("FP32", [1, 1, 32, 32]), "depth")],
)
def test_ultralytics_maps_are_stated_by_its_metadata(tmp_path, task, output, decoder):
    path = identities(tmp_path / "m.onnx", PICTURE, [("output0", *output)])
    file = replace(
        read_model_file(path), metadata={"task": task, "stride": 32, "names": {0: "sky", 1: "road"}}
    )
    found = values(conclude(file))
    assert (found["decoder"], found["resize"]) == (decoder, "letterbox")
    assert found.get("labels") == (("sky", "road") if task == "semantic" else None)


def test_numbers_for_each_cell_are_classes(tmp_path):
    path = identities(tmp_path / "m.onnx", PICTURE, [("out", "INT64", [1, 32, 32])])
    conclusion = concluded(path)
    assert values(conclusion)["decoder"] == "segment"
    assert list(conclusion.outputs) == ["classes"]


def test_scores_for_each_cell_are_classes_where_the_user_says_so(tmp_path):
    path = identities(tmp_path / "m.onnx", PICTURE, [("out", "FP32", [1, 5, 32, 32])])
    with pytest.raises(BundleError, match="no family"):
        concluded(path)
    output = concluded(path, decoder="segment").outputs["scores"]
    assert (output.shape, output.layout) == ((1, 32, 32, 5), "NHWC")


@pytest.mark.parametrize(
    ("shape", "layout"), [([1, 20, 4], "time before classes"), ([1, 4, 20], "classes before time")]
)
def test_the_axis_of_the_characters_is_found_by_their_number(tmp_path, shape, layout):
    path = identities(tmp_path / "m.onnx", PICTURE, [("out", "FP32", shape)])
    assert values(concluded(path, decoder="ctc", labels=("a", "b", "c")))["layout"] == layout
    assert asked(path, decoder="ctc") == ["--labels"]


def test_the_blank_is_what_is_read_where_there_is_no_text(tmp_path):
    path = identities(tmp_path / "m.onnx", PICTURE, [("out", "FP32", [1, 6, 4])])
    answer = np.zeros((1, 6, 4), np.float32)
    answer[0, :, 3], answer[0, 0] = 0.9, (0.1, 0.8, 0.05, 0.05)
    file = replace(
        read_model_file(path), flags={"decoder": "ctc", "labels": ("a", "b", "c")}, tried={"out": (answer,)}
    )
    assert values(conclude(file))["blank"] == 3
