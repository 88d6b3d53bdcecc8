"""Decoders of maps give back what was drawn into the map, where it is in the picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Post
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.decoders.segment import winners
from edgekit.pipeline.decoders.visible import mask_of, visible
from edgekit.pipeline.masks import MAX_RUNS, cells_of
from edgekit.pipeline.pre import place

SIZE = (64, 64)
FORMS = [(1, 16, 16), (1, 16, 16, 1), (1, 1, 16, 16)]


def build(decoder, shapes, options=None, labels=(), size=SIZE, **post):
    return make_decoder(Setup(Post(decoder=decoder, options=options or {}, **post), labels, shapes, size))


def outcome(placement=None, **arrays):
    return Outcome({name: np.asarray(array, np.float32) for name, array in arrays.items()}, placement)


def drawn(row, column, rows=1, columns=1, value=1.0, shape=(16, 16)):
    cells = np.zeros(shape, np.float32)
    cells[row : row + rows, column : column + columns] = value
    return cells


# -- the part of a map that shows the picture


@given(st.integers(8, 900), st.integers(8, 900), st.sampled_from(["letterbox", "stretch", "crop"]))
def test_the_cells_that_show_the_picture_map_to_their_part_of_it(width, height, resize):
    at = place(resize, (width, height), SIZE)
    seen = visible(at, SIZE, (32, 32))
    for side, cells in enumerate((seen.columns, seen.rows)):
        first, last = seen.area[side], seen.area[side + 2]
        assert 0 <= first < last <= (width, height)[side]
        if first == last - 1 or (last - first) * at.scale_x < 2:
            continue
        offset, scale = ((at.left, at.scale_x), (at.top, at.scale_y))[side]
        # half a cell at most is lost where an edge falls between two of them
        assert abs(first * scale + offset - 2 * cells.start) <= 1.001
        assert abs(last * scale + offset - 2 * cells.stop) <= 1.001


def test_a_mask_too_ragged_for_a_message_gets_fewer_cells():
    ragged = np.random.default_rng(0).random((400, 400)) > 0.5
    mask = mask_of(ragged, (0, 0, 400, 400))
    assert len(mask.runs) <= MAX_RUNS
    assert cells_of(mask).shape == (100, 100)


# -- classes


def test_a_map_of_classes_gives_each_class_with_its_share_and_place_the_largest_first():
    cells = drawn(2, 4, 8, 4, 2.0) + drawn(12, 0, 4, 16, 1.0)
    decode = build("segment", {"classes": (1, 16, 16)}, {"background": True}, ("none", "road", "car"))
    road, car = decode(outcome(place("stretch", (640, 320), SIZE), classes=cells[None]))
    assert (road.label, road.index, road.value, road.box) == ("road", 1, 0.25, (0, 240, 640, 320))
    assert (car.label, car.index, car.value, car.box) == ("car", 2, 0.125, (160, 40, 320, 200))
    np.testing.assert_array_equal(cells_of(car.mask), cells == 2)
    assert road.score is None


def test_scores_of_classes_give_the_highest_and_a_letterboxs_border_is_no_part():
    scores = np.zeros((1, 16, 16, 3), np.float32)
    scores[0, :, :, 1] = 0.5
    scores[0, 4:8, 0:8, 2] = 0.9
    decode = build("segment", {"scores": (1, 16, 16, 3)}, labels=("a", "b", "c"))
    b, c = decode(outcome(place("letterbox", (640, 320), SIZE), scores=scores))
    assert (b.label, b.value, b.box) == ("b", 0.75, (0, 0, 640, 320))
    assert (c.label, c.value, c.box) == ("c", 0.25, (0, 0, 320, 160))


@pytest.mark.parametrize("number", [255, 7])
def test_the_number_for_no_class_is_left_out(number):
    cells = drawn(0, 0, 4, 16, number)
    decode = build("segment", {"classes": (1, 16, 16)}, {"ignore": number}, ("all",))
    assert [item.label for item in decode(outcome(classes=cells[None]))] == ["all"]


def test_specks_below_the_least_share_are_left_out():
    decode = build("segment", {"classes": (1, 16, 16)}, {"min_share": 0.01, "background": True})
    assert decode(outcome(classes=drawn(0, 0, 1, 2)[None])) == ()
    assert len(decode(outcome(classes=drawn(0, 0, 1, 3)[None]))) == 1


def test_upsampled_scores_are_bilinear():
    scores = np.zeros((1, 2, 2), np.float32)
    scores[0, 0], scores[0, 1] = (1.0, 0.0), (0.0, 0.4)
    # between the two centres the first class falls from 1 and the second rises to .4: they meet at 5/7
    assert winners(scores, 16)[8].tolist() == [0] * 19 + [1] * 13


def test_a_map_needs_one_of_both_outputs_and_as_many_labels_as_classes():
    with pytest.raises(BundleError, match="'classes' or 'scores', one of them, got none"):
        build("segment", {})
    with pytest.raises(BundleError, match="want 3 labels"):
        build("segment", {"scores": (1, 16, 16, 3)}, labels=("a", "b"))
    with pytest.raises(BundleError, match="needs an image model"):
        build("segment", {"classes": (1, 16, 16)}, size=None)


# -- a matte


@pytest.mark.parametrize("shape", FORMS)
def test_a_matte_gives_the_foreground_with_its_share_place_and_mean(shape):
    matte = drawn(0, 0, 16, 8, 0.75).reshape(shape)
    decode = build("matte", {"matte": shape}, labels=("person",))
    (item,) = decode(outcome(place("stretch", (16, 16), SIZE), matte=matte))
    assert (item.label, item.score, item.value, item.box) == ("person", 0.75, 0.5, (0, 0, 8, 16))
    assert item.mask.extent() == item.box


def test_a_matte_is_scaled_to_the_picture_before_it_is_cut():
    decode = build("matte", {"matte": (1, 16, 16)})
    (item,) = decode(outcome(place("stretch", (160, 160), SIZE), matte=drawn(0, 0, 16, 8)[None]))
    assert (item.label, item.mask.width, item.mask.height) == ("foreground", 160, 160)
    assert item.box == (0, 0, 80, 160)


def test_a_mattes_logits_and_ranges_are_brought_to_0_to_1_first():
    logits = drawn(0, 0, 8, 16, 4.0) - 2
    (item,) = build("matte", {"matte": (1, 16, 16)}, {"activation": "sigmoid"})(outcome(matte=logits[None]))
    assert item.value == pytest.approx(0.5, abs=0.04)
    assert item.score == pytest.approx(0.88, abs=0.05)
    faint = drawn(0, 0, 8, 16, 0.01)
    assert build("matte", {"matte": (1, 16, 16)})(outcome(matte=faint[None])) == ()
    (item,) = build("matte", {"matte": (1, 16, 16)}, {"activation": "range"})(outcome(matte=faint[None]))
    assert item.value == pytest.approx(0.5, abs=0.04)


# -- depth


@pytest.mark.parametrize("shape", FORMS)
def test_depth_gives_the_nearest_the_middle_and_the_farthest_and_the_map_of_the_picture(shape):
    metres = np.repeat(np.linspace(1, 4, 16, dtype=np.float32)[None], 16, axis=0)
    decode = build("depth", {"depth": shape}, {"scale": 2.0})
    seen = outcome(place("letterbox", (640, 320), SIZE), depth=metres.reshape(shape))
    near, middle, far = decode(seen)
    assert (near.label, middle.label, far.label) == ("nearest", "middle", "farthest")
    assert (near.value, middle.value, far.value) == pytest.approx((2, 5, 8), abs=0.2)
    assert seen.maps["depth"].shape == (8, 16)
    np.testing.assert_allclose(seen.maps["depth"][0], metres[0] * 2)


def test_where_larger_is_nearer_the_nearest_has_the_largest_value():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    near, _, far = build("depth", {"depth": (1, 16, 16)}, {"is_inverse": True})(outcome(depth=ramp))
    assert (near.value, far.value) == pytest.approx((0.98, 0.02), abs=0.01)


# -- defects


def test_a_defect_has_its_mask_its_box_and_the_normalised_score():
    options = {"threshold": 10.0, "cell_threshold": 12.0, "lowest": 0.0, "highest": 40.0}
    decode = build("heatmap", {"heatmap": (1, 1, 16, 16)}, options)
    seen = outcome(place("stretch", (160, 160), SIZE), heatmap=drawn(4, 8, 2, 4, 20.0).reshape(1, 1, 16, 16))
    (item,) = decode(seen)
    assert (item.label, item.index, item.value, item.score) == ("anomaly", 1, 20.0, 0.75)
    assert item.box == item.mask.extent() == (80, 40, 120, 60)
    assert seen.maps["heatmap"].shape == (16, 16)
    (item,) = decode(outcome(heatmap=drawn(0, 0, 1, 1, 6.0).reshape(1, 1, 16, 16)))
    assert (item.label, item.index, item.value, item.score) == ("normal", 0, 6.0, pytest.approx(0.6))


def test_the_pictures_own_score_goes_before_the_maps_highest():
    decode = build("heatmap", {"heatmap": (1, 16, 16), "score": (1,)})
    (item,) = decode(outcome(heatmap=drawn(0, 0, value=0.2)[None], score=[0.9]))
    assert (item.label, item.value, item.box) == ("anomaly", pytest.approx(0.9), None)
    with pytest.raises(TensorError, match="want one value for the picture"):
        decode(outcome(heatmap=drawn(0, 0)[None], score=[0.9, 0.1]))


@pytest.mark.parametrize(
    ("decoder", "name"), [("matte", "matte"), ("depth", "depth"), ("heatmap", "heatmap")]
)
def test_a_map_of_another_form_is_refused(decoder, name):
    with pytest.raises(BundleError, match=f"needs an output '{name}'"):
        build(decoder, {"other": (1, 16, 16)})
    with pytest.raises(BundleError, match="want one value for each cell"):
        build(decoder, {name: (1, 2, 16, 16)})
