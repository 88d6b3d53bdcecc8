"""Two runs over the same frames: what is the same, and what is in one of them alone."""

import numpy as np

from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.differences import COLORS, At, Seen, compare, draw_both, pair_events, same_items


def box(left, label="cat", **more):
    return Item(label=label, score=0.9, box=(left, 0.0, left + 10.0, 10.0), **more)


def event(kind="appeared", label="cat", **more):
    return {"kind": kind, "label": label, **more}


def run(**frames):
    """A run whose frames are named f0, f1, ...: each a list of items and events."""
    seen = {}
    for name, found in frames.items():
        seq = int(name[1:])
        items = tuple(one for one in found if isinstance(one, Item))
        events = [one for one in found if isinstance(one, dict)]
        seen[seq] = Seen(seq, seq / 10, Prediction(task="detect", items=items), events)
    return seen


def test_each_item_is_the_same_as_one_at_most_and_the_best_overlap_counts_first():
    assert same_items([box(0), box(4)], [box(1)]) == 1
    assert same_items([box(0), box(40)], [box(41), box(1)]) == 2
    assert same_items([box(0)], [box(6)]) == 0  # a quarter of both
    assert same_items([], [box(0)]) == 0


def test_items_without_a_position_are_the_same_by_their_text():
    assert same_items([Item(label="plate", text="A1"), Item(label="plate", text="B2")],
                      [Item(label="plate", text="B2")]) == 1  # fmt: skip


def test_an_event_a_little_later_is_the_same_and_one_much_later_is_another():
    def at(seq):
        return At(seq, seq / 10)

    rows = pair_events([(event(), at(0)), (event(), at(50))], [(event(), at(3)), (event(), at(90))])
    assert [(row.a and row.a.seq, row.b and row.b.seq) for row in rows] == [(0, 3), (50, None), (None, 90)]
    assert all(row.differs for row in rows)


def test_events_of_another_zone_label_or_direction_are_other_events():
    at = At(5, 0.5)
    for name in ("kind", "label", "zone", "line", "direction", "stage", "previous"):
        rows = pair_events([(event(), at)], [(event() | {name: "other"}, at)])
        assert len(rows) == 2, name
    assert not pair_events([(event(), at)], [(event(count=7), at)])[0].differs


def test_an_event_whose_time_is_not_known_is_the_next_of_its_kind():
    rows = pair_events([(event(), At(900, None))], [(event(), At(3, 0.3)), (event(), At(50, 5.0))])
    assert [(row.a is None, row.b.seq, row.differs) for row in rows] == [(False, 3, False), (True, 50, True)]


def test_a_frame_that_one_run_did_not_look_at_counts_and_is_never_the_picture():
    found = compare(run(f0=[box(0)], f1=[box(0), box(50)], f2=[box(0)]), run(f0=[box(0)], f2=[box(50)]))
    assert (found.frames, found.differing, found.most) == (3, [1, 2], 2)
    cats = found.items["cat"]
    assert (cats.a, cats.b, cats.only_a, cats.only_b) == (4, 2, 3, 1)


def test_the_frame_of_an_event_in_one_run_alone_differs_more_than_one_of_two_items():
    first = run(f0=[box(0), box(20)], f1=[event()], f2=[])
    found = compare(first, run(f0=[], f1=[], f2=[]))
    assert (found.most, found.differing) == (1, [0, 1])
    assert (found.kinds()["appeared"].only_a, found.differ) == (1, True)


def test_the_same_twice_does_not_differ():
    same = run(f0=[box(0), event()], f1=[box(3)])
    found = compare(same, same)
    assert (found.differ, found.differing, found.most) == (False, [], None)


def test_items_of_stages_are_told_apart_and_a_later_event_is_not_a_differing_frame():
    found = compare(run(f0=[box(0, stage="face"), event()], f1=[]), run(f0=[box(0)], f1=[event()]))
    assert sorted(found.items) == ["cat", "face: cat"]
    assert (found.differing, found.differ) == ([0], True)


def test_both_runs_boxes_are_in_the_picture_in_their_colours():
    black = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_both(
        black, [Item(label="cat", box=(10, 20, 30, 40))], [Item(label="cat", box=(50, 20, 70, 40))]
    )
    assert tuple(drawn[30, 10]) == COLORS[0]
    assert tuple(drawn[30, 70]) == COLORS[1]
    assert not black.any()
    assert draw_both(black, [Item(label="walk")], [Item(label="run", score=0.5)])[:40].any()
