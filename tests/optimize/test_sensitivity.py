"""Which layers int8 hurts, measured; and which to keep in float because of it."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import helper

from edgekit.core.errors import ModelError
from edgekit_optimize.makers.sensitivity import layers, measure, suggest
from edgekit_optimize.study import LayerSensitivity

from .makers.onnx_nets import chain, classifier, picture_root, root_of


def test_the_layer_with_one_wild_channel_is_the_worst(tmp_path):
    """Its activations' range is a thousand times what the answers rest on."""
    model = classifier()
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "w2")
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b2")
    values, offsets = (onnx.numpy_helper.to_array(t).copy() for t in (weights, bias))
    offsets[0] = 3e3
    bias.CopyFrom(onnx.numpy_helper.from_array(offsets, "b2"))
    (high,) = (tensor for tensor in model.graph.initializer if tensor.name == "high")
    high.CopyFrom(onnx.numpy_helper.from_array(np.asarray(1e4, np.float32), "high"))
    (last,) = (tensor for tensor in model.graph.initializer if tensor.name == "w3")
    columns = onnx.numpy_helper.to_array(last).copy()
    columns[:, 0] = 0.0
    last.CopyFrom(onnx.numpy_helper.from_array(columns, "w3"))
    assert values.shape == (8, 1, 3, 3)
    rows = measure(picture_root(tmp_path, model), samples=12)
    assert [row.sqnr_db for row in rows] == sorted(row.sqnr_db for row in rows)
    assert rows[0].layer != "c1"
    assert {row.layer: row.sqnr_db for row in rows}["c2"] < 20
    assert {row.layer: row.sqnr_db for row in rows}["c1"] > 30


def test_every_layer_has_a_row_under_its_name_in_the_onnx_form(tmp_path):
    root, seen = picture_root(tmp_path), []
    rows = measure(root, samples=6, progress=lambda done, total: seen.append((done, total)))
    facts = layers(tmp_path / "net.onnx")
    assert {row.layer for row in rows} == {fact.name for fact in facts} == {"c1", "c2", "scores"}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert sum(row.multiply_adds for row in rows) == pytest.approx(1.0)
    assert all(20 < row.sqnr_db < 80 and row.agreement > 0.8 for row in rows)


def test_the_same_measurement_gives_the_same_rows(tmp_path):
    root = picture_root(tmp_path)
    assert measure(root, samples=6) == measure(root, samples=6)


def test_answers_that_are_no_classes_are_compared_by_their_cosine(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 6)).astype(np.float32)}
    model = chain(
        helper.make_node("MatMul", ["x", "w"], ["y"]), weights=weights, shape=(1, 5, 6), out=(1, 5, 6)
    )
    (row,) = measure(root_of(tmp_path, model, rng.normal(size=(8, 5, 6)).astype(np.float32)))
    assert 0.99 < row.agreement < 1.0


def test_a_callers_own_agreement_is_asked(tmp_path):
    rows = measure(
        picture_root(tmp_path),
        samples=4,
        agreement=lambda wanted, found: 0.25 * (wanted.keys() == found.keys()),
    )
    assert [row.agreement for row in rows] == [0.25] * 3


def test_a_root_without_onnx_says_what_is_missing(tmp_path):
    root = replace(picture_root(tmp_path), onnx="", missing={"onnx": "layer 'q' (CUSTOM) has no ONNX form"})
    with pytest.raises(ModelError, match=r"needs the model's ONNX form, which is missing: layer 'q'"):
        measure(root)


rows = st.lists(
    st.builds(
        LayerSensitivity,
        layer=st.uuids().map(str),
        operator=st.just("Conv"),
        sqnr_db=st.floats(-120, 120),
        agreement=st.floats(0, 1),
        multiply_adds=st.floats(0, 1),
    ),
    unique_by=lambda row: row.layer,
    max_size=20,
)


@given(rows)
def test_suggested_sets_are_nested_and_never_most_of_the_work(sensitivity):
    work = {row.layer: row.multiply_adds for row in sensitivity}
    sets = suggest(sensitivity)
    for smaller, larger in pairwise(sets):
        assert larger[: len(smaller)] == smaller
        assert len(larger) > len(smaller)
    for names in sets:
        assert sum(work[name] for name in names) <= 0.5 + 1e-9
        assert len(names) in (1, 2, 4, 8, 16) or names == sets[-1]


def test_the_worst_layer_comes_first(tmp_path):
    found = suggest(
        [
            LayerSensitivity(layer=n, operator="Conv", sqnr_db=d, agreement=1.0)
            for n, d in zip("abc", (30.0, 10.0, 20.0), strict=True)
        ],
        (2,),
    )
    assert found == (("b", "c"),)
