"""The tracker's arithmetic is exact, and an object keeps its number."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.spec import Item
from edgekit.pipeline.tracking.assign import assign
from edgekit.pipeline.tracking.kalman import Boxes
from edgekit.pipeline.tracking.tables import TrackTable
from edgekit.pipeline.tracking.tracker import Tracker

costs_of = st.tuples(st.integers(0, 5), st.integers(0, 5)).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(0, 20), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
    ).map(lambda rows: np.array(rows, np.float64).reshape(size) / 10)
)


@given(costs_of, st.sampled_from([0.5, 1.0, 1.5, 3.0]))
def test_no_other_assignment_is_cheaper(costs, limit):
    """Every assignment of a small table is tried; who stays alone costs half the limit."""
    pairs = assign(costs, limit)
    assert all(costs[pair] < limit for pair in pairs)
    rows, columns = costs.shape
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)

    def total(chosen):
        return sum(costs[pair] for pair in chosen) + limit / 2 * (rows + columns - 2 * len(chosen))

    places = [*range(columns), *[-1] * rows]
    tried = (
        [(row, column) for row, column in enumerate(chosen) if column >= 0]
        for chosen in itertools.permutations(places, rows)
    )
    cheapest = min(map(total, tried)) if rows * columns <= 12 else total(pairs)
    assert total(pairs) <= cheapest + 1e-9


@pytest.mark.parametrize("shape", [(1, 1), (30, 30), (20, 45), (45, 20)])
def test_large_assignments_cost_what_scipys_cost(shape):
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(7)
    for digits in (1, 8):  # with many equal costs, and without
        costs = random.random(shape).round(digits)
        rows, columns = optimize.linear_sum_assignment(costs)
        pairs = assign(costs, 2.0)
        assert len(pairs) == min(shape)
        assert sum(costs[pair] for pair in pairs) == pytest.approx(costs[rows, columns].sum())


def test_the_filter_is_the_one_of_eight_dimensions():
    """The same steps with the whole matrices of the paper give the same boxes and the same spread."""
    boxes, measured = Boxes(), np.array([[0.5, 0.4, 0.5, 0.2]])
    boxes.append(measured)
    height = 0.2
    std = [height / 10, height / 10, 1e-2, height / 10, height / 16, height / 16, 1e-5, height / 16]
    mean, covariance = np.append(measured[0], np.zeros(4)), np.diag(np.square(std))
    watch = np.eye(4, 8)
    for step in range(12):
        frames = 1 + step % 3
        boxes.advance(frames)
        move = np.eye(8) + frames * np.eye(8, k=4)
        height = mean[3]
        std = [height / 20, height / 20, 1e-2, height / 20]
        std += [height / 160, height / 160, 1e-5, height / 160]
        mean = move @ mean
        covariance = move @ covariance @ move.T + frames * np.diag(np.square(std))
        seen = np.array([[0.5 + 0.03 * step, 0.4 - 0.01 * step, 0.5 + 0.01 * step, 0.2 + 0.004 * step]])
        height = mean[3]
        spread = watch @ covariance @ watch.T + np.diag(
            np.square([height / 20, height / 20, 1e-1, height / 20])
        )
        surprise = seen[0] - watch @ mean
        distance = surprise @ np.linalg.inv(spread) @ surprise
        assert boxes.distances(np.array([0]), seen)[0, 0] == pytest.approx(distance)
        gain = covariance @ watch.T @ np.linalg.inv(spread)
        mean, covariance = mean + gain @ surprise, covariance - gain @ spread @ gain.T
        boxes.correct(np.array([0]), seen)
        assert boxes.place[0] == pytest.approx(mean[:4])


# -- tracks


def item(x, y=0.5, score=0.9, label="person", width=0.05, height=0.1):
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Item(label=label, score=score, index=0, box=box)


class Film:
    """Frames, one tenth of a second apart, through a tracker; the number of each item of each frame."""

    def __init__(self, threshold=0.5, **table):
        self.tracker, self.threshold = Tracker(TrackTable(**table)), threshold
        self.frame, self.ended = 0, []

    def show(self, *items, frames=1):
        self.frame += frames
        boxes = np.array([one.box for one in items]).reshape(-1, 4)
        found, ended = self.tracker.step(items, boxes, self.threshold, self.frame / 10, frames)
        self.ended += ended
        return [found[index].number if index in found else None for index in range(len(items))]


def test_a_track_has_no_number_before_it_is_confirmed_and_is_forgotten_at_once_if_it_never_is():
    film = Film(confirm=3)
    assert [film.show(item(0.1 + 0.01 * n)) for n in range(4)] == [[None], [None], [1], [1]]
    film.show(item(0.14), item(0.8))
    film.show(item(0.15))
    assert [track.number for track in film.ended] == [None]
    assert film.tracker.confirmed == 1


def test_two_that_meet_keep_their_numbers():
    film, kept = Film(), []
    for n in range(30):
        left, right = item(0.2 + 0.02 * n, 0.45), item(0.8 - 0.02 * n, 0.55)
        numbers = film.show(left, right) if n % 2 else film.show(right, left)[::-1]
        kept.append(numbers)
    assert kept[3] in ([1, 2], [2, 1])
    assert kept[3:] == [kept[3]] * 27


def test_a_weak_box_continues_a_track_and_begins_none():
    film = Film()
    for n in range(5):
        film.show(item(0.2 + 0.01 * n))
    assert film.show(item(0.25, score=0.15), item(0.7, score=0.4)) == [1, None]
    assert film.show(item(0.26, score=0.05)) == [None]  # weaker than low_score


def test_without_its_weak_boxes_a_hidden_object_would_be_lost():
    """The claim of ByteTrack: the second association keeps what the first would lose."""
    for low_score, is_kept in ((0.1, True), (0.3, False)):
        film = Film(low_score=low_score, keep_s=0.3)
        for n in range(5):
            film.show(item(0.2 + 0.01 * n))
        for n in range(5, 12):
            film.show(item(0.2 + 0.01 * n, score=0.15))
        assert (film.show(item(0.32)) == [1]) == is_kept


@pytest.mark.parametrize(("missing", "number"), [(15, 1), (25, None)])
def test_a_lost_track_returns_where_it_is_expected_until_keep_s_is_over(missing, number):
    film = Film(keep_s=2.0)
    for n in range(20):
        film.show(item(0.1 + 0.01 * n))
    for _ in range(missing):
        film.show()
    assert film.show(item(0.1 + 0.01 * (20 + missing))) == [number]


def test_a_change_of_label_begins_another_track_unless_the_labels_are_alike():
    for alike, numbers in (((), {1, 2}), ((("car", "truck"),), {1}), ((("*",),), {1})):
        film = Film(alike=alike)
        seen = [film.show(item(0.5, label="car")) for _ in range(5)]
        seen += [film.show(item(0.5, label="truck")) for _ in range(5)]
        assert {number for row in seen for number in row if number} == numbers
    assert film.tracker.tracks[0].label == "car"  # by the sum of its scores; a tie is the first one's


def test_what_comes_out_a_little_beside_where_it_is_expected_is_the_same_object():
    for rejoin, is_one in ((True, True), (False, False)):
        film = Film(rejoin=rejoin)
        for n in range(20):
            film.show(item(0.1 + 0.01 * n))
        for _ in range(10):
            film.show()
        numbers = [film.show(item(0.4 + 0.045 + 0.01 * n)) for n in range(4)][-1]
        assert (numbers == [1]) == is_one
        assert film.tracker.rejoined == is_one


def test_dropped_frames_move_a_track_on():
    film = Film(rejoin=False)
    for n in range(8):
        film.show(item(0.1 + 0.02 * n))
    assert film.show(item(0.1 + 0.02 * 12), frames=5) == [1]


def test_no_more_tracks_are_kept_than_a_frame_has_items():
    film = Film(confirm=1)
    for row in range(2):
        film.show(*(item(n % 20, row * 50 + n // 20) for n in range(200)))
    assert len(film.tracker.tracks) == 300
