"""Rows of a table reach a model's inputs by their columns' names, and nothing wrong gets through."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx_bundles import make_onnx_bundle

import edgekit
from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Column, TensorSpec
from edgekit.pipeline.table import TablePre

INPUTS = (
    TensorSpec(name="numbers", datatype="FP32", shape=(-1, 2)),
    TensorSpec(name="count", datatype="INT64", shape=(-1, 1)),
    TensorSpec(name="site", datatype="BYTES", shape=(-1, 1)),
)
COLUMNS = (
    Column(name="load", input="numbers", index=1, mean=10, std=2),
    Column(name="temp", input="numbers", missing="nan"),
    Column(name="count", input="count", missing=3),
    Column(name="site", input="site"),
)
TABLE = TablePre(COLUMNS, INPUTS, "m 1.0.0")
ROW = {"temp": 20.5, "load": 14, "count": 4, "site": "Berlin"}


def values(row):
    tensors = TABLE.tensors(row)
    assert {name: array.shape for name, array in tensors.items()} == {
        "numbers": (1, 2),
        "count": (1, 1),
        "site": (1, 1),
    }
    return {name: array.reshape(-1).tolist() for name, array in tensors.items()}


@given(st.permutations(list(ROW)))
def test_columns_are_matched_by_name_in_any_order(names):
    assert values({name: ROW[name] for name in names}) == {
        "numbers": [20.5, 2.0],
        "count": [4],
        "site": ["Berlin"],
    }


@pytest.mark.parametrize("row", [[14, 20.5, 4, "Berlin"], ("14", "20.5", "4", "Berlin")])
def test_a_row_without_names_has_the_columns_order_and_text_from_a_file_becomes_numbers(row):
    assert values(row) == values(ROW)


@pytest.mark.parametrize("nothing", [None, "", math.nan, "absent"])
def test_a_missing_value_gets_what_the_bundle_has_for_it(nothing):
    row = {**ROW, "temp": nothing, "count": nothing}
    if nothing == "absent":
        del row["temp"], row["count"]
    found = values(row)
    assert math.isnan(found["numbers"][0])
    assert found["count"] == [3]


def test_every_wrong_value_of_a_row_is_named_at_once():
    with pytest.raises(TensorError) as caught:
        TABLE.tensors({"temp": "warm", "load": None, "count": 2.5, "site": 1.5})
    assert (caught.value.message, *caught.value.reasons) == (
        "row: column 'load': has no value, and the bundle has none for it (columns.missing)",
        "column 'temp': want a number, got 'warm'",
        "column 'count': want int64, got 2.5",
        "column 'site': want text, got 1.5",
    )


@pytest.mark.parametrize("row", [[1, 2, 3], "abcd", None, np.zeros(3), 5])
def test_a_row_of_another_length_or_no_row_is_refused_with_the_columns(row):
    with pytest.raises(TensorError, match="want 4 values or a mapping") as caught:
        TABLE.tensors(row)
    assert caught.value.hint == "its columns: load, temp, count, site"


def test_an_unknown_column_is_refused():
    with pytest.raises(TensorError, match="the model has no column 'colour'"):
        TABLE.tensors({**ROW, "colour": 1})


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (COLUMNS[:3], "input 'site', index 0"),
        ((*COLUMNS, Column(name="more", input="numbers", index=2)), "input 'numbers', index 2"),
        ((*COLUMNS, Column(name="again", input="numbers", index=1)), "input 'numbers', index 1"),
    ],
)
def test_each_value_of_each_input_has_one_column(columns, reason):
    with pytest.raises(BundleError, match="one column for each value of each input") as caught:
        TablePre(columns, INPUTS, "m 1.0.0")
    assert caught.value.reasons == (reason,)
    with pytest.raises(BundleError, match="a name is there twice"):
        TablePre(
            (COLUMNS[0], *(Column(name="x", input=c.input, index=c.index) for c in COLUMNS[1:])), INPUTS, "m"
        )


# -- whole models


def zip_map(folder):
    """A linear classifier of two numbers and a site as scikit-learn's exporter writes it."""
    nodes = [
        helper.make_node(
            "OneHotEncoder", ["site"], ["hot"], domain="ai.onnx.ml", cats_strings=["A", "B"], zeros=1
        ),
        helper.make_node("Reshape", ["hot", "two"], ["flat"]),
        helper.make_node("Concat", ["numbers", "flat"], ["all"], axis=1),
        helper.make_node(
            "LinearClassifier",
            ["all"],
            ["label", "raw"],
            domain="ai.onnx.ml",
            classlabels_strings=["cold", "hot", "odd"],
            coefficients=[-1.0, 0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0, 9.0],
            intercepts=[0.0, 0.0, 0.0],
            post_transform="SOFTMAX",
        ),
        helper.make_node(
            "ZipMap", ["raw"], ["chances"], domain="ai.onnx.ml", classlabels_strings=["cold", "hot", "odd"]
        ),
    ]
    two = helper.make_node("Constant", [], ["two"], value_ints=[-1, 2])
    element = helper.make_map_type_proto(8, helper.make_tensor_type_proto(1, []))
    maps = helper.make_value_info("chances", helper.make_sequence_type_proto(element))
    return make_onnx_bundle(
        folder,
        [two, *nodes],
        [("numbers", "FP32", [None, 2]), ("site", "BYTES", [None, 1])],
        [("label", "BYTES", [None]), maps],
        {"ai_onnx_ml": 1},
        task="tabular",
        labels=["cold", "hot", "odd"],
        inputs=[
            {"name": "numbers", "datatype": "FP32", "shape": [1, 2]},
            {"name": "site", "datatype": "BYTES", "shape": [1, 1]},
        ],
        outputs=[{"name": "scores", "datatype": "FP32", "shape": [1, 3]}],
        variant={"outputs": {"scores": "chances"}},
        pre={
            "resize": "none",
            "columns": [
                {"name": "temp", "input": "numbers"},
                {"name": "load", "input": "numbers", "index": 1, "missing": 0},
                {"name": "site", "input": "site"},
            ],
        },
        post={"decoder": "classify", "score_threshold": 0.5},
    )


def test_a_classifier_of_numbers_and_texts_with_maps_as_its_answer(tmp_path):
    rows = [{"temp": 4, "site": "A"}, {"temp": -4, "load": 9, "site": "A"}, {"temp": 0, "site": "B"}]
    with edgekit.load(zip_map(tmp_path / "bundle")) as model:
        found = [model.predict(row).best for row in rows]
        assert [item.label for item in found] == ["hot", "cold", "odd"]
        assert found[0].score == pytest.approx(math.exp(4) / (math.exp(4) + math.exp(-4) + 1), abs=1e-5)
        many = model.predict_many({"temp": [4, -4], "site": ["A", "A"]})
        assert [prediction.best.label for prediction in many] == ["hot", "cold"]
        with pytest.raises(TensorError, match="different lengths"):
            model.predict_many({"temp": [4, -4], "site": ["A"]})
        with pytest.raises(TensorError, match="sample 2 of 2: row: column 'site'"):
            model.predict_many([rows[0], {"temp": 1}])
        tensors = model.infer({"numbers": np.float32([[4, 0]]), "site": np.array([["A"]])})
        assert tensors["scores"].argmax() == 1


def test_a_file_of_a_fixed_batch_answers_each_row_of_it(tmp_path):
    nodes = [
        helper.make_node(
            "LinearRegressor",
            ["x"],
            ["variable"],
            domain="ai.onnx.ml",
            coefficients=[2.0, 1.0],
            intercepts=[5.0],
        )
    ]
    bundle = make_onnx_bundle(
        tmp_path / "bundle",
        nodes,
        [("x", "FP32", [3, 2])],
        [("variable", "FP32", [3, 1])],
        {"ai_onnx_ml": 1},
        task="regress",
        inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}],
        outputs=[{"name": "values", "datatype": "FP32", "shape": [1, 1]}],
        variant={"outputs": {"values": "variable"}, "batch": [3]},
        pre={
            "resize": "none",
            "columns": [{"name": "a", "input": "x"}, {"name": "b", "input": "x", "index": 1}],
        },
        post={"decoder": "regress"},
    )
    with edgekit.load(bundle) as model:
        found = model.predict_many([[1, 0], [0, 1], [10, 0], [0, 0]])
        assert [prediction.items[0].value for prediction in found] == [7.0, 6.0, 25.0, 5.0]
        assert model.predict([1, 1]).items[0].value == 8.0
