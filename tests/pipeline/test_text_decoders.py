"""Text comes back as it was written into the scores, and where it was drawn into the map."""

import math
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import BundleError
from edgekit.core.spec import Post, corners
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.pre import place, vision

ORDERS = ("time before classes", "classes before time")
LETTERS = tuple(string.ascii_lowercase + " ")


def build(decoder, shapes, options, labels=(), size=(64, 64), **post):
    return make_decoder(Setup(Post(decoder=decoder, options=options, **post), labels, shapes, size))


def written(text, blank, repeat=2):
    """Scores of a text as CTC writes it: each letter some times, a blank between equal neighbours."""
    characters = [*LETTERS[:blank], None, *LETTERS[blank:]]
    rows = [blank]
    for before, letter in zip((None, *text), text, strict=False):
        rows += [blank] * (before == letter) + [characters.index(letter)] * repeat
    scores = np.full((1, len(rows), len(characters)), 0.1, np.float32)
    scores[0, np.arange(len(rows)), rows] = 0.9
    return scores


@given(
    st.text(LETTERS, min_size=1, max_size=20), st.sampled_from([0, 5, 27]), st.integers(1, 3), st.booleans()
)
def test_a_line_of_text_comes_back_wherever_the_blank_is_and_whichever_axis_is_first(
    text, blank, repeat, classes_first
):
    scores = written(text, blank, repeat)
    scores = scores.transpose(0, 2, 1) if classes_first else scores
    options = {"blank": -1 if blank == 27 else blank, "layout": ORDERS[classes_first]}
    decode = build("ctc", {"scores": scores.shape}, options, LETTERS, size=None)
    (item,) = decode(Outcome({"scores": scores}))
    assert (item.text, item.score) == (text, pytest.approx(0.9))


def test_nothing_but_blanks_and_an_unsure_line_are_no_item():
    decode = build("ctc", {"scores": (1, -1, 28)}, {}, LETTERS, score_threshold=0.95)
    assert decode(Outcome({"scores": written("", 0)})) == ()
    assert decode(Outcome({"scores": written("unsure", 0)})) == ()


def test_logits_of_characters_become_probabilities():
    scores = np.full((1, 1, 28), -100, np.float32)
    scores[0, 0, :2] = 0, math.log(3)
    decode = build("ctc", {"scores": (1, 1, 28)}, {"activation": "softmax"}, LETTERS)
    assert [(item.text, item.score) for item in decode(Outcome({"scores": scores}))] == [
        ("a", pytest.approx(0.75))
    ]


def test_another_number_of_characters_is_refused_with_what_counts():
    with pytest.raises(BundleError, match="want 29 labels, one for each character, got 27") as caught:
        build("ctc", {"scores": (1, 5, 30)}, {}, LETTERS)
    assert "the blank is no label" in caught.value.hint


@given(st.integers(20, 44), st.integers(20, 44), st.integers(14, 22), st.integers(5, 9), st.integers(-40, 40))
def test_a_line_drawn_into_the_map_comes_back_with_its_place_length_and_angle(x, y, width, height, degrees):
    cv2 = vision()
    drawn = np.zeros((64, 64), np.float32)
    corner_points = cv2.boxPoints(((x, y), (width, height), degrees))
    cv2.fillPoly(drawn, [np.round(corner_points).astype(np.int32)], 0.8)
    decode = build("textmap", {"map": (1, 1, 64, 64)}, {"grow": 0})
    at = place("stretch", (128, 128), (64, 64))
    (item,) = decode(Outcome({"map": drawn[None, None]}, at))
    ox, oy, along, across, angle = item.oriented_box
    assert (ox / 2, oy / 2) == pytest.approx((x, y), abs=1.6)
    assert (along / 2, across / 2) == pytest.approx((width, height), abs=2.5)
    assert abs(math.sin(angle - math.radians(degrees))) < 0.25
    assert item.score == pytest.approx(0.8)


def test_a_found_line_grows_back_by_its_area_over_its_perimeter():
    drawn = np.zeros((64, 64), np.float32)
    drawn[10:21, 10:51] = 1  # 40 x 10 between the centres of its outer cells
    options = {"grow": 1.5}
    (item,) = build("textmap", {"map": (1, 64, 64)}, options)(Outcome({"map": drawn[None]}))
    grown = 2 * 1.5 * 40 * 10 / 100
    assert item.oriented_box == pytest.approx((30.5, 15.5, 40 + grown, 10 + grown, 0))


def test_a_maps_logits_become_probabilities():
    drawn = np.full((64, 64), -5.0, np.float32)
    drawn[10:21, 10:51] = 2.0
    decode = build("textmap", {"map": (1, 64, 64)}, {"activation": "sigmoid"})
    (item,) = decode(Outcome({"map": drawn[None]}))
    assert item.score == pytest.approx(0.88, abs=0.05)


def test_lines_come_from_top_to_bottom_and_unsure_and_tiny_ones_not_at_all():
    drawn = np.zeros((64, 64), np.float32)
    drawn[40:48, 10:50], drawn[5:12, 10:50], drawn[20:28, 10:50], drawn[58:60, 3:5] = 0.9, 0.9, 0.4, 0.9
    items = build("textmap", {"map": (1, 64, 64)}, {})(Outcome({"map": drawn[None]}))
    assert [round(item.oriented_box[1]) for item in items] == [8, 44]


def test_a_picture_stretched_to_the_input_turns_the_box_back():
    drawn = np.zeros((64, 64), np.float32)
    vision().fillPoly(drawn, [np.array([[10, 10], [40, 40], [36, 44], [6, 14]], np.int32)], 1.0)
    at = place("stretch", (640, 64), (64, 64))
    (item,) = build("textmap", {"map": (1, 64, 64)}, {"grow": 0})(Outcome({"map": drawn[None]}, at))
    x, _, along, _, angle = item.oriented_box
    assert (x, along) == pytest.approx((235, 301), rel=0.05)
    assert math.tan(angle) == pytest.approx(0.1, abs=0.02)
    assert len(corners(item.oriented_box)) == 4
