"""The part of the next picture that MoveNet looks at follows the person's hips."""

import numpy as np
import pytest

from edgekit.core.spec import Item
from edgekit.pipeline.moving_crop import MovingCrop, next_region
from edgekit.pipeline.pre import place

SIZE = (640, 480)
NAMES = ("left shoulder", "right shoulder", "left hip", "right hip", "left ankle")


def person(shift=0.0, *, scores=(0.9,) * 5, ankle=280.0):
    points = ((290, 150), (330, 150), (295, 220), (325, 220), (310, ankle))
    return Item(
        label="person",
        point_names=NAMES,
        points=tuple((x + shift, y) for x, y in points),
        point_scores=scores,
    )


def test_the_square_is_as_large_as_the_torso_needs_and_moves_with_the_hips():
    half = 1.9 * 70  # from the hips at 310, 220 to the shoulders
    assert next_region(person(), SIZE) == pytest.approx(
        (310 - half, 220 - half, 310 + half, 220 + half), abs=1
    )
    assert next_region(person(100), SIZE)[0] == pytest.approx(410 - half, abs=1)


def test_a_body_that_reaches_further_needs_more_and_the_square_ends_at_the_picture():
    left, top, right, bottom = next_region(person(ankle=400.0), SIZE)
    half = 1.2 * 180
    assert (left, right) == pytest.approx((310 - half, 310 + half), abs=1)
    assert (top, bottom) == (4, 436)
    assert next_region(person(-250), SIZE)[0] == 0


@pytest.mark.parametrize("scores", [(0.1, 0.1, 0.9, 0.9, 0.9), (0.9, 0.9, 0.1, 0.1, 0.9)])
def test_without_a_sure_torso_the_whole_picture_is_looked_at(scores):
    assert next_region(person(scores=scores), SIZE) is None


def test_what_is_seen_in_a_crop_lies_where_it_is_in_the_picture():
    crop, picture = MovingCrop(), np.zeros((480, 640, 3), np.uint8)
    crop.follow([person()], SIZE)
    shown, corner = crop.cut(picture)
    placement = place("letterbox", (shown.shape[1], shown.shape[0]), (192, 192)).of_whole(corner, SIZE)
    middle = np.float32([[96, 96]])
    np.testing.assert_allclose(placement.points_to_source(middle), [[310, 220]], atol=1.5)
    crop.follow([], SIZE)
    assert crop.cut(picture)[0] is picture


def test_a_picture_of_another_size_is_looked_at_whole():
    crop = MovingCrop()
    crop.follow([person()], SIZE)
    assert crop.cut(np.zeros((100, 100, 3), np.uint8))[1] == (0, 0)
