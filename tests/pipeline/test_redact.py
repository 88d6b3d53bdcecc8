"""What must not be seen is gone from the pixels, and nothing else is."""

import numpy as np
import pytest
from bundles import make_bundle, make_detector
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import prediction

from edgekit.core.errors import ConfigError
from edgekit.core.spec import Item, Prediction
from edgekit.model.ready import open_ready
from edgekit.pipeline.masks import to_mask
from edgekit.pipeline.redact import CELLS, Redactor, check_redact, hide, pixel_box

NOISE = np.random.default_rng(0).integers(1, 256, (40, 60, 3), np.uint8)
edges = st.floats(-100, 100)


@given(st.tuples(edges, edges, edges, edges), st.sampled_from(["fill", "blur"]), st.floats(0, 1))
def test_exactly_the_pixels_of_the_box_change(box, style, margin):
    pixels = NOISE.copy()
    hide(pixels, [box], style, margin)
    left, top, right, bottom = pixel_box(box, 60, 40, margin)
    inside = np.zeros((40, 60), bool)
    if left < right and top < bottom:
        inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(pixels[~inside], NOISE[~inside])
    if style == "fill":
        assert not pixels[inside].any()


def test_a_blurred_box_holds_no_more_than_its_averages():
    """Two pictures with the same averages in each cell look the same after."""
    checks = np.indices((36, 36)).sum(0) % 2 * 200
    one = np.repeat(checks[:, :, None], 3, 2).astype(np.uint8)
    other = 200 - one
    for pixels in (one, other):
        hide(pixels, [(0, 0, 36, 36)], "blur")
    np.testing.assert_array_equal(one, other)
    assert CELLS == 6


def test_the_cut_takes_every_pixel_that_the_box_touches():
    pixels = NOISE.copy()
    hide(pixels, [(9.9, 9.9, 10.1, 10.1)], "fill")
    assert not pixels[9:11, 9:11].any()
    assert (pixels == 0).all(axis=2).sum() == 4


@pytest.mark.parametrize(
    ("labels", "is_hidden"),
    [(("person",), True), (("PERSON",), True), (("*",), True), (("face",), False), ((), False)],
)
def test_only_the_named_labels_are_hidden(labels, is_hidden):
    pixels = NOISE.copy()
    Redactor(labels, "fill", 0.0, 0).apply(pixels, prediction("detect", "person", box=(0, 0, 5, 5)))
    assert (not pixels[:5, :5].any()) == is_hidden


@pytest.mark.parametrize(
    "item",
    [
        Item(label="person", oriented_box=(20, 20, 20, 4, np.pi / 4)),
        Item(label="person", mask=to_mask(np.eye(3, dtype=bool), (10, 10, 30, 30))),
        Item(label="person", box=(10, 10, 12, 12), mask=to_mask(np.ones((1, 1), bool), (10, 10, 30, 30))),
        Item(label="person", points=((10, 10), (30, 30))),
    ],
)
def test_the_box_around_everything_that_has_a_place_is_hidden(item):
    pixels = NOISE.copy()
    Redactor(("person",), "fill", 0.0, 0).apply(pixels, Prediction(task="detect", items=(item,)))
    assert not pixels[13:27, 13:27].any()
    assert pixels[32:, 32:].all()


def test_a_box_stays_hidden_for_the_frames_that_lose_it():
    redactor = Redactor(("person",), "fill", 0.0, 2)
    hidden = []
    for seen in (True, False, False, False):
        pixels = NOISE.copy()
        redactor.apply(pixels, prediction("detect", *["person"] * seen, box=(0, 0, 5, 5)))
        hidden.append(not pixels[:5, :5].any())
    assert hidden == [True, True, True, False]


@pytest.fixture
def opened(tmp_path):
    """Open a model that finds faces and caps, or one that classifies."""
    models = []

    def opened(make):
        models.append(open_ready(make(tmp_path / "bundle")))
        return models[-1].predictor

    yield opened
    for model in models:
        model.close()


def detector(folder):
    return make_detector(folder, labels=("face", "cap"))


@pytest.mark.parametrize("redact", [(), ("Face",), ("face", "*"), ("FACE", "Cap")])
def test_labels_are_the_models_whatever_their_case(opened, redact):
    check_redact(redact, opened(detector))


def test_a_label_that_the_model_lacks_is_refused_with_those_it_has(opened):
    with pytest.raises(ConfigError, match="has no label 'dog', 'cat'") as caught:
        check_redact(("dog", "Face", "cat"), opened(detector))
    assert caught.value.reasons == ("its labels: face, cap",)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("redact", [("moving",), ("*",)])
def test_a_model_without_boxes_cannot_hide_anything(opened, redact):
    with pytest.raises(ConfigError, match="want a model that finds boxes, .* for the task 'sensor'"):
        check_redact(redact, opened(make_bundle))


def test_what_is_held_moves_with_a_source_that_halves_its_frames():
    redactor = Redactor(("face",), "fill", 0.0, 2)
    face = Prediction(task="detect", items=(Item(label="face", box=(20, 10, 40, 30)),))
    redactor.apply(np.full((40, 60, 3), 9, np.uint8), face)
    small = np.full((20, 30, 3), 9, np.uint8)
    redactor.apply(small, Prediction(task="detect", items=()))
    assert not small[5:15, 10:20].any()
    assert (small == 0).sum() == 10 * 10 * 3
