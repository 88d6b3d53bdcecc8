"""Who goes first among requests, how many may wait, and which of them run at once."""

import threading

import pytest
from held_lane import WAIT_S, Held
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.base.entry import Bounds
from edgekit.base.joint import Fit, Joint
from edgekit.core.errors import BusyError, InferenceError, LateError


@pytest.fixture
def held():
    with Held() as each:
        yield each


# -- order


def test_a_lower_priority_that_has_waited_a_second_longer_for_each_step_goes_first(held):
    held.submit("low", priority=-2)
    held.clock.now_s += 1.9
    held.submit("high soon")
    held.clock.now_s += 0.2
    held.submit("high late")
    held.open()
    assert held.ran == ["high soon", "low", "high late"]


def test_a_client_with_one_request_does_not_wait_for_the_hundred_of_another(held):
    held.lane.pace("infer").add(0.01)
    for number in range(100):
        held.submit(number, client="many")
    held.submit("one", client="few")
    held.open()
    assert held.ran.index("one") <= 1
    assert [each for each in held.ran if each != "one"] == list(range(100))


def test_two_clients_that_flood_get_equal_shares(held):
    held.lane.pace("infer").add(0.01)
    for _ in range(50):
        held.submit("a", client="a")
    for _ in range(50):
        held.submit("b", client="b")
    held.open()
    assert abs(held.ran[:40].count("a") - 20) <= 1


@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from("abc"), st.floats(0, 2)), max_size=40))
@settings(deadline=None, max_examples=30)
def test_each_clients_requests_of_one_priority_stay_in_their_order(asked):
    with Held() as held:
        held.lane.pace("infer").add(0.3)
        for number, (priority, client, later_s) in enumerate(asked):
            held.clock.now_s += later_s
            held.submit((priority, client, number), priority=priority, client=client)
        held.open()
        for key in {each[:2] for each in held.ran}:
            numbers = [number for *rest, number in held.ran if tuple(rest) == key]
            assert numbers == sorted(numbers)
        assert len(held.ran) == len(asked)


# -- bounds


def test_rows_count_and_a_lone_request_of_any_size_is_taken():
    with Held(Bounds(waiting=4)) as held:
        held.submit(rows=9)
        with pytest.raises(BusyError, match="9 requests wait"):
            held.submit()


def test_one_client_leaves_half_of_the_room_to_others():
    with Held(Bounds(waiting=4)) as held:
        held.submit(client="a"), held.submit(client="a")
        with pytest.raises(BusyError, match="2 requests of this client wait"):
            held.submit(client="a")
        held.submit(client="b"), held.submit(client="b")
        with pytest.raises(BusyError, match="4 requests wait"):
            held.submit(client="c")


def test_what_ends_in_whatever_way_gives_its_room_back():
    with Held(Bounds(waiting=2, waiting_bytes=100)) as held:
        for end in (held.lane.cancel, held.lane.expire):
            end(held.submit(client="a", size_bytes=100))
        assert (held.lane._requests.rows, held.lane._requests.size_bytes) == (0, 0)
        held.submit(client="a", size_bytes=100)
        held.open()
        assert (held.lane._requests.rows, held.lane._requests.size_bytes) == (0, 0)
        assert not held.lane._requests._clients


def test_the_wait_of_a_request_that_goes_first_counts_only_what_goes_before_it(held):
    held.lane.pace("infer").add(1.0)
    for _ in range(4):
        held.submit(client="many")
    with pytest.raises(BusyError, match=r"would take 5\.000 s"):
        held.submit(client="many", timeout_s=4.5)
    held.submit(client="few", timeout_s=2.5)
    held.submit(priority=9, client="urgent", timeout_s=1.5)


def test_what_would_be_answered_at_its_deadline_is_refused_too(held):
    """Under overload the queue fills up to what is admitted, so a quarter of the wait is kept in reserve."""
    held.lane.pace("infer").add(1.0)
    for _ in range(4):
        held.submit()
    with pytest.raises(BusyError, match=r"would take 5\.000 s, the timeout is 5\.500 s"):
        held.submit(timeout_s=5.5)
    held.submit(timeout_s=6.5)


def test_where_waits_were_longer_than_expected_more_is_kept_in_reserve(held):
    held.lane.pace("infer").add(1.0)
    for _ in range(100):
        held.submit()
    held.clock.now_s += 300.0
    held.open()
    again, begun = threading.Event(), threading.Event()
    held.lane.control(lambda: (begun.set(), again.wait(WAIT_S)))
    assert begun.wait(WAIT_S)
    for _ in range(4):
        held.submit()
    with pytest.raises(BusyError, match=r"would take 5\.000 s, the timeout is 12\.500 s"):
        held.submit(timeout_s=12.5)
    held.submit(timeout_s=13.5)
    again.set()


# -- batches


class Batch:
    """A model whose batch takes ``a + b * rows`` of a clock's time, alone ``a + b``."""

    def __init__(self, held, a_s, b_s, most=8):
        self.clock, self.a_s, self.b_s, self.sizes, self.held = held.clock, a_s, b_s, [], held
        self.joint = Joint(self.run, most)
        for _ in range(5):
            held.lane.pace("infer").add(a_s + b_s)

    def run(self, works):
        self.sizes.append(len(works))
        self.clock.now_s += self.a_s + self.b_s * len(works)
        return [work() for work in works]

    def submit(self, name, **more):
        def alone():
            return name

        return self.held.lane.submit([alone], kind="infer", joint=self.joint, **more)


def test_what_waits_runs_at_once_up_to_the_bound_and_each_gets_its_own_result(held):
    batch = Batch(held, 1.0, 0.01, most=4)
    entries = [batch.submit(number) for number in range(9)]
    held.open()
    assert [held.lane.result(entry) for entry in entries] == [[number] for number in range(9)]
    assert batch.sizes == [4, 4]
    assert (held.lane.counts.batches, held.lane.counts.batched) == (2, 8)


def test_a_lone_request_is_never_kept_waiting_for_others():
    with Held() as held:
        batch = Batch(held, 1.0, 0.01)
        held.open()
        assert held.lane.result(batch.submit("x")) == ["x"]
        assert batch.sizes == []


def test_a_batch_that_saves_less_than_fifteen_percent_is_not_made_again():
    with Held() as held:
        batch = Batch(held, 0.1, 1.0)
        for _ in range(30):
            batch.submit("x")
        held.open()
        assert batch.sizes == [8]


def test_a_batch_ends_where_one_of_its_requests_would_be_late(held):
    batch = Batch(held, 0.5, 0.1)
    for rows in (1, 8):
        batch.joint.fit.add(rows, 0.5 + 0.1 * rows)
    entries = [batch.submit(number, timeout_s=0.95 if number == 0 else 0.0) for number in range(8)]
    held.open()
    assert [held.lane.result(entry) for entry in entries] == [[number] for number in range(8)]
    assert batch.sizes == [4, 4]


@pytest.mark.parametrize(("others", "priority", "is_given_up"), [(8, 0, True), (7, 0, False), (8, 1, False)])
def test_a_request_that_could_only_run_alone_is_given_up_where_a_batch_of_others_waits(
    held, others, priority, is_given_up
):
    batch = Batch(held, 0.5, 0.1)
    for rows in (1, 8):
        batch.joint.fit.add(rows, 0.5 + 0.1 * rows)
    first = batch.submit("first", timeout_s=0.65, priority=priority)
    entries = [batch.submit(number) for number in range(others)]
    held.open()
    assert [held.lane.result(entry) for entry in entries] == [[number] for number in range(others)]
    assert batch.sizes == [others]
    if is_given_up:
        with pytest.raises(LateError, match="a batch's worth of others waits"):
            held.lane.result(first)
    else:
        assert held.lane.result(first) == ["first"]
    assert held.lane.counts.deadline_missed == is_given_up


def test_where_batches_do_not_pay_a_request_that_can_be_answered_alone_is(held):
    batch = Batch(held, 0.1, 1.0)
    for rows in (1, 8):
        batch.joint.fit.add(rows, 0.1 + 1.0 * rows)
    first = batch.submit("first", timeout_s=1.2)
    others = [batch.submit(number) for number in range(8)]
    held.open()
    assert held.lane.result(first) == ["first"]
    assert [held.lane.result(each) for each in others] == [[number] for number in range(8)]
    assert batch.sizes == []


def test_an_error_of_one_is_its_own_and_an_error_of_the_run_is_everyones(held):
    batch = Batch(held, 1.0, 0.0)
    one = InferenceError("one")
    batch.joint.run = lambda works: [one, "fine"]
    entries = [batch.submit(number) for number in range(2)]
    held.open()
    with pytest.raises(InferenceError, match="one"):
        held.lane.result(entries[0])
    assert held.lane.result(entries[1]) == ["fine"]
    with Held() as other:
        batch = Batch(other, 1.0, 0.0)
        batch.joint.run = lambda works: (_ for _ in ()).throw(InferenceError("all"))
        entries = [batch.submit(number) for number in range(2)]
        other.open()
        for entry in entries:
            with pytest.raises(InferenceError, match="all"):
                other.lane.result(entry)


def test_what_was_cancelled_or_is_another_models_is_in_no_batch(held):
    batch, other = Batch(held, 1.0, 0.01), Batch(held, 1.0, 0.01)
    entries = [batch.submit(number) for number in range(4)]
    other.submit("other")
    held.lane.cancel(entries[1])
    held.open()
    assert (batch.sizes, other.sizes) == ([3], [])


def test_a_request_in_a_batch_that_is_late_meanwhile_is_told_so():
    with Held() as held:
        batch = Batch(held, 1.0, 0.01)
        entries = [batch.submit(number, timeout_s=5.0) for number in range(2)]
        held.clock.now_s += 4.5
        held.open()
        for entry in entries:
            with pytest.raises(LateError):
                held.lane.result(entry)


@given(st.floats(1e-5, 1), st.floats(0, 1), st.lists(st.integers(1, 16), min_size=2, max_size=60))
def test_the_fit_finds_a_straight_line(a_s, b_s, sizes):
    fit = Fit()
    for rows in sizes:
        fit.add(rows, a_s + b_s * rows)
    for rows in set(sizes):
        assert fit.cost_s(rows) == pytest.approx(a_s + b_s * rows, rel=0.05)


def test_the_fit_follows_a_machine_that_slows_down_and_forgives_an_outlier():
    fit = Fit()
    for rows in (1, 4, 8) * 10:
        fit.add(rows, 1.0 + 0.1 * rows)
    fit.add(4, 1000.0)
    assert fit.cost_s(4) < 2.0
    for rows in (1, 4, 8) * 30:
        fit.add(rows, 2 * (1.0 + 0.1 * rows))
    assert fit.cost_s(8) == pytest.approx(3.6, rel=0.05)


def test_a_request_that_will_be_in_a_batch_takes_as_long_as_that(held):
    batch = Batch(held, 1.0, 0.0, most=4)
    batch.joint.fit.add(4, 2.0)
    batch.submit("first")
    with pytest.raises(BusyError, match=r"would take 2\.500 s"):
        batch.submit("second", timeout_s=2.4)


def test_the_estimated_wait_counts_rows_at_what_a_batch_makes_of_them(held):
    batch = Batch(held, 1.0, 0.0, most=4)
    batch.joint.fit.add(4, 1.0)
    for number in range(8):
        batch.submit(number)
    assert held.lane.wait_s() == pytest.approx(2.0)
