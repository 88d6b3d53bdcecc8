"""Zones and lines count every object once, and none that is not sure."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.core.ports import Frame
from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.events import Debounce
from edgekit.pipeline.tracking.geometry import Ground, beside, depth_in, passes
from edgekit.pipeline.tracking.tables import LineTable, TrackTable, ZoneTable
from edgekit.pipeline.tracking.watcher import Watcher

MIDDLE = LineTable(name="middle", points=((0.5, 0.0), (0.5, 1.0)))
RIGHT = ZoneTable(name="right", polygon=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
SIDE_PX = 20


class Film:
    """Frames of 200 x 100 pixels, one tenth of a second apart, through a watcher."""

    def __init__(self, *, zones=(), lines=(), debounce=None, size=(200, 100), **table):
        ids = map(str, itertools.count(1))
        table = TrackTable(**{"confirm": 2, "keep_s": 0.5, **table})
        self.watcher = Watcher(table, zones, lines, debounce, new_id=lambda: next(ids))
        self.events, self.frame, self.size = [], 0, size

    def show(self, *boxes, label="person", score=0.9, size=None):
        """Show boxes by their centres in shares of the picture."""
        width, height = size or self.size
        side = SIDE_PX * height / 100
        items = tuple(
            Item(
                label=label,
                score=score,
                index=0,
                box=(
                    x * width - side / 2,
                    y * height - side / 2,
                    x * width + side / 2,
                    y * height + side / 2,
                ),
            )
            for x, y in boxes
        )
        frame = Frame(
            np.empty((height, width, 3), np.uint8), self.frame, self.frame * 10**8, self.frame * 100
        )
        self.frame += 1
        prediction, events = self.watcher.step(frame, Prediction(task="detect", items=items), 0.5)
        self.events += events
        return prediction

    def walk(self, *places, **how):
        """Show one box on its way from place to place, a fifth of its side a frame."""
        for (x0, y0), (x1, y1) in itertools.pairwise(places):
            way_px = math.hypot((x1 - x0) * 200, (y1 - y0) * 100)
            steps = max(1, round(way_px / SIDE_PX * 5))
            for step in range(steps):
                self.show((x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps), **how)
        return self

    def told(self, *kinds):
        return [event for event in self.events if event.kind in kinds]


def test_who_crosses_a_line_is_counted_once_with_the_direction_and_the_moment():
    film = Film(lines=[MIDDLE]).walk((0.2, 0.5), (0.8, 0.5), (0.2, 0.5), (0.2, 0.6))
    events = film.told("crossed")
    # from the first point (top) to the second one (bottom) the left hand is on the picture's right
    assert [event.direction for event in events] == ["backward", "forward"]
    assert [(event.line, event.tracks, event.label) for event in events] == [("middle", (1,), "person")] * 2
    assert [event.start_seq for event in events] == pytest.approx([15, 45], abs=1)
    assert all(
        event.seq >= event.start_seq > 0 and event.start_unix_ms == event.start_seq * 100 for event in events
    )
    assert film.watcher.document()["lines"] == {
        "middle": {"forward": {"person": 1}, "backward": {"person": 1}}
    }


@given(st.lists(st.floats(-0.9, 0.9), min_size=5, max_size=40))
@settings(max_examples=30)
def test_who_stands_on_a_line_is_not_counted(wobbles):
    """The anchor never is beyond the line by the margin: a tenth of the box's side."""
    film = Film(lines=[MIDDLE], zones=[RIGHT])
    film.walk((0.3, 0.5), (0.48, 0.5))
    for wobble in wobbles:
        film.show((0.5 + wobble * 0.1 * SIDE_PX / 200, 0.5))
    assert not film.told("crossed", "entered")


@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=6))
@example([0.7, 0.3, 0.7, 0.3])  # in, out, in and out within the first second
@settings(max_examples=20)
def test_crossings_of_one_object_take_turns_and_end_on_the_side_where_it_is(stops):
    film = Film(lines=[MIDDLE], zones=[RIGHT])
    film.walk(*((x, 0.5) for x in stops), (stops[-1], 0.5))
    directions = [event.direction for event in film.told("crossed")]
    assert all(one != other for one, other in itertools.pairwise(directions))
    told = [event.kind for event in film.told("entered", "left")]
    assert all(one != other for one, other in itertools.pairwise(told))
    if abs(stops[-1] - 0.5) > 0.05 and directions:
        assert directions[-1] == ("backward" if stops[-1] > 0.5 else "forward")
    if abs(stops[-1] - 0.5) > 0.05:
        assert film.watcher.document()["zones"]["right"]["inside"] == (stops[-1] > 0.5)


def test_who_goes_around_the_end_of_a_line_is_not_counted():
    gate = LineTable(name="gate", points=((0.5, 0.4), (0.5, 0.6)), directions=("out", "in"))
    film = Film(lines=[gate], keep_s=2.0)
    film.walk((0.3, 0.5), (0.3, 0.1), (0.7, 0.1), (0.7, 0.5))
    assert not film.told("crossed")
    film.walk((0.7, 0.5), (0.3, 0.5), (0.2, 0.5))
    assert [event.direction for event in film.told("crossed")] == ["out"]


def test_what_is_never_confirmed_never_counts():
    film = Film(lines=[MIDDLE], zones=[RIGHT], confirm=25).walk((0.3, 0.5), (0.7, 0.5))
    film.show()
    assert not film.events
    assert film.watcher.document()["tracks"] == 0


def test_what_is_confirmed_late_counts_for_what_it_did_before():
    film = Film(lines=[MIDDLE], zones=[RIGHT], confirm=12)
    for _ in range(15):  # past the start of the run
        film.show()
    film.walk((0.35, 0.5), (0.65, 0.5), (0.65, 0.6))
    assert [event.kind for event in film.events] == ["appeared", "entered", "crossed"]
    assert len({event.seq for event in film.events}) == 1
    assert film.told("crossed")[0].start_seq < film.told("crossed")[0].seq


def test_an_object_that_is_hidden_on_the_line_counts_when_it_comes_out():
    film = Film(lines=[MIDDLE], keep_s=1.0)
    for step in range(24):
        film.show(*([(0.3 + 0.015 * step, 0.5)] if not 10 <= step < 17 else []))
    assert [event.tracks for event in film.told("crossed")] == [(1,)]


def test_a_visit_has_one_id_its_dwell_and_its_end():
    zone = ZoneTable(name="right", polygon=RIGHT.polygon, dwell_s=1.0, count="enter")
    film = Film(zones=[zone]).walk((0.2, 0.5), (0.8, 0.5), (0.81, 0.5), (0.2, 0.5))
    entered, dwelled, left = film.told("entered", "dwelled", "left")
    assert (entered.kind, dwelled.kind, left.kind) == ("entered", "dwelled", "left")
    assert entered.id == dwelled.id == left.id
    assert (entered.zone, entered.count, left.count) == ("right", 1, 1)
    assert dwelled.dwell_s == pytest.approx(1.0, abs=0.11)
    assert left.dwell_s == pytest.approx((left.end_unix_ms - left.start_unix_ms) / 1e3)
    assert left.start_unix_ms == entered.start_unix_ms
    assert film.watcher.document()["zones"]["right"] == {
        "entered": {"person": 1},
        "left": {"person": 1},
        "inside": 0,
    }


def test_who_vanishes_inside_left_when_seen_last():
    film = Film(zones=[RIGHT])
    film.walk((0.3, 0.5), (0.8, 0.5))
    for _ in range(8):
        film.show()
    left, vanished = film.told("left", "vanished")
    assert left.end_unix_ms == vanished.end_unix_ms == 2400
    assert left.captured_unix_ms == 3000
    assert vanished.id == film.told("appeared")[0].id


def test_who_is_inside_when_the_run_begins_did_not_enter_but_leaves():
    film = Film(zones=[RIGHT]).walk((0.8, 0.5), (0.81, 0.5), (0.2, 0.5))
    assert [event.kind for event in film.told("entered", "left")] == ["left"]


def test_motion_tells_what_is_parked_from_what_passes():
    zones = [
        ZoneTable(name=motion, polygon=RIGHT.polygon, motion=motion) for motion in ("any", "moving", "still")
    ]
    film = Film(zones=zones, still_s=1.0)
    for _ in range(15):
        film.show()
    for step in range(40):  # one stands there, one goes past below
        film.show((0.75, 0.3), (0.3 + 0.015 * step, 0.8))
    entered = {
        zone: {e.tracks[0] for e in film.told("entered") if e.zone == zone}
        for zone in ("any", "moving", "still")
    }
    assert entered == {"any": {1, 2}, "moving": {2}, "still": {1}}


def test_labels_sizes_and_places_can_be_chosen():
    film = Film(
        zones=[ZoneTable(name="cars", polygon=RIGHT.polygon, labels=("car",))], labels=("person", "car")
    )
    for _ in range(15):
        film.show()
    for label in ("person", "car", "dog"):
        film.walk((0.7, 0.5), (0.8, 0.5), label=label)
    assert Counter(event.label for event in film.told("appeared")) == {"person": 1, "car": 1}
    assert [event.label for event in film.told("entered")] == ["car"]
    for bounds in ({"min_height": 0.3}, {"max_height": 0.1}):
        small = Film(**bounds).walk((0.2, 0.5), (0.4, 0.5))
        assert not small.events
        assert small.show((0.4, 0.5)).items[0].track is None  # it is still reported


def test_the_anchor_decides_where_an_object_is():
    level = LineTable(name="level", points=((0.0, 0.5), (1.0, 0.5)))
    passed = {}
    for anchor in ("top", "centre", "bottom"):
        film = Film(lines=[level], anchor=anchor).walk((0.5, 0.2), (0.5, 0.8))
        passed[anchor] = film.told("crossed")[0].start_seq
    assert passed == pytest.approx({"bottom": 5, "centre": 8, "top": 10}, abs=1)


def test_a_change_of_the_pictures_size_changes_nothing():
    film = Film(lines=[MIDDLE])
    film.walk((0.3, 0.5), (0.5, 0.5))
    film.walk((0.5, 0.5), (0.7, 0.5), size=(100, 50))
    assert [event.tracks for event in film.told("crossed")] == [(1,)]
    assert len(film.told("appeared")) == 1


def test_weak_items_are_reported_only_where_they_continue_a_track():
    film = Film()
    film.walk((0.3, 0.5), (0.4, 0.5))
    kept = film.show((0.41, 0.5), (0.8, 0.5), score=0.3)
    assert [item.track for item in kept.items] == [1]


def test_a_changed_number_of_objects_is_an_event_where_it_is_asked_for():
    film = Film(debounce=Debounce(appear=2, window=3, count=True))
    for boxes in ([(0.2, 0.5)], [(0.2, 0.5), (0.6, 0.5)], []):
        for _ in range(5):
            film.show(*boxes)
    counted = [(event.previous, event.count, event.tracks) for event in film.told("counted")]
    assert counted == [("0", 1, (1,)), ("1", 2, (1, 2)), ("2", 0, ())]
    assert not Film().walk((0.2, 0.5), (0.3, 0.5)).told("counted")


def test_the_speed_is_in_metres_of_the_ground():
    """A camera looks down a street: near the lower edge a metre has more pixels."""
    ground = ((0.4, 0.2), (0.6, 0.2), (1.0, 1.0), (0.0, 1.0))
    metres = ((0.0, 40.0), (8.0, 40.0), (8.0, 0.0), (0.0, 0.0))
    street = Ground(ground, metres)
    back = Ground(metres, ground)  # where on the picture a point of the ground is
    for (x, y), where in zip(ground, metres, strict=True):
        assert street.metres((x, y)) == pytest.approx(where)
    film = Film(
        ground=ground,
        ground_m=metres,
        zones=[ZoneTable(name="all", polygon=((0, 0), (1, 0), (1, 1), (0, 1)), dwell_s=2.0)],
    )
    for step in range(30):  # 10 m/s towards the camera
        x, y = back.metres((4.0, 35.0 - step))
        film.show((x, y - SIDE_PX / 200))
    (dwelled,) = film.told("dwelled")
    assert dwelled.speed_m_s == pytest.approx(10.0, rel=0.1)


def test_distances_in_the_picture():
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert depth_in((0.5, 0.9), square) == pytest.approx(0.1)
    assert depth_in((0.5, 1.2), square) == pytest.approx(-0.2)
    assert beside((3.0, 0.5), (0.0, 0.0), (0.0, 1.0)) == pytest.approx(-3.0)
    assert not passes((0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (2.0, 0.0), 0.5)
    assert passes((0.6, -1.0), (0.6, 1.0), (1.0, 0.0), (2.0, 0.0), 0.5)
