"""What is found in a crop is where it is in the frame."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.spec import Item, Mask
from edgekit.pipeline.stages.crops import crop_areas, joined, moved, tile_areas


@given(st.integers(40, 700), st.integers(40, 500), st.integers(1, 4), st.integers(1, 4), st.floats(0, 0.5))
def test_tiles_cover_every_pixel_and_share_what_was_asked_for(width, height, columns, rows, share):
    areas = tile_areas(width, height, (columns, rows), share)
    assert len(areas) == columns * rows
    for low, high, side, count in ((0, 2, width, columns), (1, 3, height, rows)):
        spans = sorted({(area[low], area[high]) for area in areas})
        assert len(spans) == count
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        for one, other in itertools.pairwise(spans):
            assert one[1] - other[0] == pytest.approx(share * (one[1] - one[0]), abs=2)


def test_every_kind_of_place_moves_with_the_crop():
    item = Item(
        box=(1, 2, 3, 4),
        oriented_box=(2, 3, 2, 2, 0.5),
        points=((1, 1), (3, 4)),
        mask=Mask(area=(1, 2, 3, 4), width=2, height=1, runs=(0, 2)),
    )
    there = moved(item, 10, 20)
    assert there.box == (11, 22, 13, 24)
    assert there.oriented_box == (12, 23, 2, 2, 0.5)
    assert there.points == ((11, 21), (13, 24))
    assert there.mask.area == (11, 22, 13, 24)
    assert moved(Item(label="red"), 10, 20) == Item(label="red")


def test_crops_are_the_surest_first_with_their_margin_inside_the_picture():
    items = [Item(score=0.5, box=(0, 0, 10, 20)), Item(score=0.9, box=(50, 50, 60, 60)), Item(score=1.0)]
    assert crop_areas(items, 100, 100, margin=0.5, min_side_px=1) == [
        (1, (45, 45, 65, 65)),
        (0, (0, 0, 15, 30)),
    ]
    assert crop_areas(items, 100, 100, margin=0.0, min_side_px=11) == []


def test_of_an_object_on_a_tiles_edge_the_whole_box_is_kept_though_a_part_is_surer():
    left, right = (0, 0, 60, 100), (40, 0, 100, 100)
    part = Item(label="cup", score=0.9, box=(45, 10, 60, 40))  # cut off by the left tile's edge
    whole = Item(label="cup", score=0.8, box=(5, 10, 35, 40))  # the same in the right tile
    other = Item(label="cat", score=0.5, box=(5, 10, 35, 40))
    kept = joined([(left, [part]), (right, [whole, other])], 100, 100, 0.45)
    assert [(item.label, item.box) for item in kept] == [("cup", (45, 10, 75, 40)), ("cat", (45, 10, 75, 40))]
    alone = joined([(left, [part]), (right, [])], 100, 100, 0.45)
    assert [item.box for item in alone] == [(45, 10, 60, 40)]
