"""One thread runs what waits for a model: in order, fairly, within bounds, and never two at a time."""

import contextlib
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from held_lane import WAIT_S, Clock, Held
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.base.entry import Bounds
from edgekit.base.joint import Joint
from edgekit.base.lane import Lane
from edgekit.core.errors import BusyError, InferenceError, LateError


@pytest.fixture
def held():
    with Held() as each:
        yield each


# -- order


def test_control_goes_first_then_priority_then_who_came_first(held):
    held.submit("low", priority=-1)
    held.submit("first")
    held.submit("second")
    held.submit("high", priority=1)
    held.lane.control(lambda: held.ran.append("control"))
    held.open()
    assert held.ran == ["control", "high", "first", "second", "low"]


def test_the_smaller_allowance_goes_first(held):
    patient = held.lane.stream(held.ran.append, is_live=True, allowance_s=0.5)
    eager = held.lane.stream(held.ran.append, is_live=True, allowance_s=0.05)
    patient.put("patient")
    held.clock.now_s += 0.1
    eager.put("eager")
    held.open()
    for stream in (patient, eager):
        stream.close()
        stream.wait_spent()
    assert held.ran == ["eager", "patient"]


def test_what_is_to_follow_the_waiting_requests_does(held):
    held.submit("high", priority=1)
    held.submit("low", priority=-1)
    held.lane.control(lambda: held.ran.append("unload"), after_waiting=True)
    held.open()
    assert held.ran == ["high", "low", "unload"]


class Busy:
    """Live streams of one lane, whose frames and runs take scripted time: every run moves the clock.

    Everything that arrives meanwhile is put by the run itself, in the lane's thread: so it is the same each
    time.
    """

    def __init__(self, periods_s, costs_s, end_s, request_period_s=0.0, request_s=0.0):
        self.clock, self.end_s = Clock(), end_s
        self.lane = Lane("busy", Bounds(waiting=8), clock=self.clock)
        self.served, self.waits, self.refused = [0] * len(periods_s), [], 0
        self.periods_s, self.due_s = periods_s, [1.0] * len(periods_s)
        self.request_period_s, self.request_s, self.request_due_s = request_period_s, request_s, 1.0
        self.streams = [
            self.lane.stream(lambda _, number=number, cost_s=cost_s: self.run(number, cost_s), is_live=True)
            for number, cost_s in enumerate(costs_s)
        ]
        self.lane.call(self.arrive)
        for stream in self.streams:
            stream.wait_spent()
        self.lane.control(lambda: None, after_waiting=True).done.wait(WAIT_S)
        self.lane.close()

    def run(self, number, cost_s):
        self.clock.now_s += cost_s
        self.served[number] += 1
        self.arrive()

    def answer(self, queued_s):
        self.waits.append(self.clock.now_s - queued_s)
        self.clock.now_s += self.request_s
        self.arrive()

    def arrive(self):
        if self.clock.now_s >= self.end_s:
            for stream in self.streams:
                stream.close(discard=True)
            return
        for number, stream in enumerate(self.streams):
            while self.due_s[number] <= self.clock.now_s:
                stream.put(number)
                self.due_s[number] += self.periods_s[number]
        while self.request_period_s and self.request_due_s <= self.clock.now_s:
            self.request_due_s += self.request_period_s
            queued_s = self.clock.now_s
            try:
                self.lane.submit([lambda queued_s=queued_s: self.answer(queued_s)], kind="infer")
            except BusyError:
                self.refused += 1


RATES = st.lists(st.floats(0.001, 0.03), min_size=2, max_size=5)


@given(RATES)
@settings(max_examples=30, deadline=None)
def test_equal_streams_of_a_saturated_lane_get_equal_shares_whatever_their_rates(periods_s):
    """Each gives more frames than its share of a model that takes 50 ms."""
    busy = Busy(periods_s, [0.05] * len(periods_s), end_s=21.0)
    share = sum(busy.served) / len(busy.served)
    assert share > 50
    assert min(busy.served) >= 0.9 * share


@given(RATES, st.floats(0.01, 0.2))
@settings(max_examples=20, deadline=None)
def test_neither_streams_nor_requests_starve_one_another(periods_s, request_period_s):
    busy = Busy(periods_s, [0.05] * len(periods_s), 11.0, request_period_s, request_s=0.05)
    users = len(periods_s) + 1
    share = 10.0 / 0.05 / users
    assert min(busy.served) >= 0.9 * share
    asked = min(share, 10.0 / request_period_s)
    assert len(busy.waits) >= 0.85 * asked
    if request_period_s > 0.05 * users * 1.1:  # fewer than their share: each waits for one round
        assert max(busy.waits) <= 0.05 * users + 1e-6
        assert not busy.refused


@given(st.floats(0.01, 0.03), st.floats(0.2, 0.5))
@settings(max_examples=10, deadline=None)
def test_a_stream_that_gives_less_than_its_share_gets_every_frame_served(busy_s, rare_s):
    busy = Busy([busy_s, busy_s, rare_s], [0.05] * 3, end_s=21.0)
    assert busy.served[2] >= 20.0 / rare_s - 2


# -- streams


@given(st.booleans(), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
@settings(deadline=None)
def test_a_stream_keeps_order_and_never_more_than_its_slots(is_live, capacity, moves):
    with Held() as held:
        stream = held.lane.stream(held.ran.append, is_live=is_live, capacity=capacity)
        inside = []
        for item, is_put in enumerate(moves):
            if is_put and (is_live or len(inside) < capacity):
                assert stream.put(item)
                inside = [*inside, item][-capacity:]
        assert stream.waiting == len(inside)
        stream.close()
        assert not stream.put(99)
        assert not stream.wait_for_room()
        held.open()
        stream.wait_spent()
        assert held.ran == inside


def test_a_giver_that_waits_goes_on_when_there_is_room_and_when_the_stream_is_closed(held):
    stream, results = held.lane.stream(held.ran.append, is_live=False), []
    stream.put(0)
    givers = [threading.Thread(target=lambda: results.append(stream.put(1))) for _ in range(2)]
    givers[0].start()
    held._gate.set()
    givers[0].join(WAIT_S)
    assert results == [True]
    with Held() as other:
        stream = other.lane.stream(other.ran.append, is_live=False)
        stream.put(0)
        givers[1].start()
        stream.close()
        givers[1].join(WAIT_S)
        assert results == [True, False]


def test_a_reader_goes_on_while_the_lane_wakes_for_the_item_before_and_not_while_one_is_at_work():
    began, end = threading.Event(), threading.Event()

    def work(_):
        began.set()
        end.wait(WAIT_S)

    with Held() as held:
        stream = held.lane.stream(work, is_live=False)
        stream.put(0)
        assert stream.wait_for_room()  # the lane has yet to take it
        held._gate.set()
        assert began.wait(WAIT_S)
        stream.put(1)
        threading.Timer(0.05, end.set).start()
        assert stream.wait_for_room()
        assert stream.waiting == 0  # else the item that comes would be old


def test_a_stream_without_room_for_results_holds_up_nobody_else():
    has_room, ran = threading.Event(), []
    lane = Lane("room")
    blocked = lane.stream(ran.append, is_live=False, has_room=has_room.is_set)
    blocked.put("blocked")
    assert lane.result(lane.submit([lambda: ran.append("request")], kind="infer")) == [None]
    assert (ran, blocked.waiting) == (["request"], 1)
    has_room.set()
    blocked.nudge()
    blocked.close()
    blocked.wait_spent()
    assert ran == ["request", "blocked"]
    lane.close()


def test_a_run_that_raises_ends_its_own_stream_only():
    lane, ran = Lane("errors"), []
    bad = lane.stream(lambda item: 1 / item, is_live=False, capacity=2)
    good = lane.stream(ran.append, is_live=False)
    bad.put(0)
    bad.wait_spent()
    assert isinstance(bad.error, ZeroDivisionError)
    assert not bad.put(1)
    assert good.put("fine")
    good.close()
    good.wait_spent()
    assert ran == ["fine"]
    lane.close()


# -- requests


def test_results_come_in_the_order_of_the_works_and_an_error_is_raised_where_it_is_awaited():
    lane = Lane("results")
    assert lane.result(lane.submit([lambda: 1, lambda: 2], kind="infer")) == [1, 2]
    ended = []
    failed = lane.submit([lambda: 1 / 0, lambda: ended.append(1)], kind="infer", on_done=ended.append)
    with pytest.raises(ZeroDivisionError):
        lane.result(failed)
    lane.close()
    assert ended == [failed]


def test_more_requests_than_may_wait_are_refused_with_the_estimated_wait():
    with Held(Bounds(waiting=2)) as held:
        held.lane.pace("infer").add(3.0)
        held.submit(), held.submit()
        with pytest.raises(BusyError, match="2 requests wait for this model already") as refused:
            held.submit()
        assert (refused.value.wait_s, held.lane.counts.shed) == (6.0, 1)


def test_more_bytes_than_may_wait_are_refused_but_never_a_lone_request():
    with Held(Bounds(waiting_bytes=100)) as held:
        held.submit(size_bytes=101)
        with pytest.raises(BusyError, match="100 bytes"):
            held.submit(size_bytes=1)


def test_a_request_that_cannot_end_in_time_is_refused_at_once(held):
    held.lane.pace("infer").add(10.0)
    with pytest.raises(BusyError, match=r"would take 10.000 s, the timeout is 1.000 s"):
        held.submit(timeout_s=1.0)


def test_streams_that_wait_count_in_the_estimate(held):
    held.lane.pace("frame").add(0.5)
    for _ in range(2):
        held.lane.stream(held.ran.append, is_live=True).put("frame")
    assert held.lane.wait_s() == pytest.approx(1.0)


def test_a_request_that_would_end_too_late_is_not_begun(held):
    late, ended = held.submit("late", timeout_s=1.0), []
    late.on_done = ended.append
    held.submit("other")
    held.clock.now_s += 2.0
    held.open()
    with pytest.raises(LateError, match="the timeout would pass"):
        held.lane.result(late)
    assert (held.ran, ended, held.lane.counts.deadline_missed) == (["other"], [late], 1)


def test_a_timeout_passes_in_time_although_the_thread_is_busy():
    with Held(clock=time.monotonic) as held:
        with pytest.raises(LateError, match="the timeout has passed"):
            held.lane.result(held.submit("late", timeout_s=0.02))
        held.open()
        assert held.ran == []


def test_a_cancelled_request_never_begins(held):
    entries = [held.submit(number) for number in range(3)]
    held.lane.cancel(entries[1])
    held.lane.cancel(entries[1])
    assert held.lane.depth == 2
    held.open()
    with pytest.raises(CancelledError):
        held.lane.result(entries[1])
    assert (held.ran, held.lane.counts.cancelled_queued) == ([0, 2], 1)


def test_the_results_of_a_request_that_is_cancelled_while_it_runs_are_dropped():
    lane, began, gate = Lane("cancel"), threading.Event(), threading.Event()
    entry = lane.submit([lambda: (began.set(), gate.wait(WAIT_S))], kind="infer")
    assert began.wait(WAIT_S)
    lane.cancel(entry)
    gate.set()
    with pytest.raises(CancelledError):
        lane.result(entry)
    assert (lane.counts.cancelled_running, lane.counts.cancelled_queued) == (1, 0)
    lane.close()


# -- the caller's thread, control, the end


def quick(lane, kind="infer"):
    for _ in range(5):
        lane.pace(kind).add(1e-6)


def test_quick_work_runs_in_its_callers_thread_and_else_it_does_not(held):
    assert held.lane.run_inline(threading.get_ident, "infer") is None  # nothing is known of it
    quick(held.lane)
    assert held.lane.run_inline(threading.get_ident, "infer") is None  # something runs
    held.open()
    deadline_s = time.monotonic() + WAIT_S
    while held.lane.is_busy:
        assert time.monotonic() < deadline_s
    assert held.lane.run_inline(threading.get_ident, "infer") == threading.get_ident()
    held.lane.pace("infer").add(1000.0)
    assert held.lane.run_inline(threading.get_ident, "infer") is None


def test_an_item_runs_in_the_thread_of_a_user_who_waits_for_it_unless_somebody_else_has_the_model(held):
    stream = held.lane.stream(lambda _: held.ran.append(threading.get_ident()), is_live=False)
    assert held.lane.run_item(stream, "frame") is False  # something runs
    held.open()
    held.lane.call(lambda: None)
    held.lane.submit([lambda: None], kind="infer", wake=False)
    assert held.lane.run_item(stream, "frame") is False  # something waits
    assert held.ran == []
    quick(held.lane)
    held.lane.run_waiting(60.0)
    assert held.lane.run_item(stream, "frame") is True
    assert held.ran == [threading.get_ident()]
    assert held.lane.p95_ms is None  # the clock has not moved
    stream.close()
    assert held.lane.run_item(stream, "frame") is False
    assert stream.is_spent


def test_an_item_that_runs_in_its_users_thread_may_call_the_lane_and_its_error_ends_the_stream():
    """As a failover does: it would wait for itself."""
    with contextlib.closing(Lane("inline")) as lane:

        def fails(_):
            raise InferenceError(str(lane.call(threading.get_ident)))

        stream = lane.stream(fails, is_live=False)
        assert lane.run_item(stream, "frame") is True
        assert stream.error.message == str(threading.get_ident())
        assert stream.is_spent
        assert lane.call(threading.get_ident) != threading.get_ident()


def test_items_that_run_in_their_users_thread_do_not_put_off_what_comes_between_for_long():
    clock, looks = Clock(), []
    with contextlib.closing(Lane("between", between=looks.append, clock=clock)) as lane:
        stream = lane.stream(lambda _: None, is_live=False)

        def through_the_thread():
            assert lane.run_item(stream, "frame") is False
            stream.put("frame")
            lane.control(lambda: None, after_waiting=True).done.wait(WAIT_S)
            return lane.call(lambda: len(looks))

        assert through_the_thread() > 0  # nobody has looked yet
        while not lane.run_item(stream, "frame"):  # the lane's thread looks 10 times a second, too
            pass
        with lane._lock:
            clock.now_s += 1.5
            seen = len(looks)
        stopped = lane.run_item(stream, "frame") is False
        assert stopped or len(looks) > seen


def test_the_timeout_of_a_request_has_run_since_it_came(held):
    late = held.lane.submit([lambda: None], kind="infer", timeout_s=0.05, age_s=0.04)
    assert late.deadline_s == pytest.approx(held.clock.now_s + 0.01)
    with pytest.raises(BusyError, match="would take 0.060 s, the timeout is 0.050 s"):
        held.lane.submit([lambda: None], kind="infer", timeout_s=0.05, age_s=0.06)


def test_requests_that_wait_run_in_the_thread_that_asks_while_they_are_quick():
    lane = Lane("round")
    quick(lane)
    entries = [lane.submit([threading.get_ident], kind="infer", wake=False) for _ in range(3)]
    assert lane.run_waiting(0.0) is True
    assert not any(entry.done.is_set() for entry in entries)
    assert lane.run_waiting(60.0) is False
    assert [entry.results for entry in entries] == [[threading.get_ident()]] * 3
    slow = lane.submit([threading.get_ident], kind="predict", wake=False)
    assert lane.run_waiting(60.0) is False
    assert lane.result(slow) != [threading.get_ident()]
    lane.close()


def test_a_batch_that_takes_longer_than_a_quick_request_may_is_left_to_the_lanes_thread():
    lane, threads = Lane("batch", Bounds(inline_s=0.001)), []

    def run(works):
        threads.append(threading.current_thread().name)
        return [work() for work in works]

    for _ in range(5):
        lane.pace("infer").add(0.0009)
    joint = Joint(run, 8)
    joint.fit.add(8, 0.002)
    entries = [lane.submit([lambda: 1], kind="infer", joint=joint, wake=False) for _ in range(8)]
    assert lane.is_quick("infer")
    assert lane.run_waiting(60.0) is False
    assert [lane.result(entry) for entry in entries] == [[1]] * 8
    assert threads == ["batch"]
    lane.close()


@pytest.mark.parametrize(("run_s", "in_lane"), [(0.0004, True), (0.0002, False)])
def test_quick_requests_that_take_longer_than_the_budget_are_the_lanes_threads_unless_they_are_very_short(
    run_s, in_lane
):
    clock = Clock()
    with contextlib.closing(Lane("backlog", Bounds(inline_s=0.001), clock=clock)) as lane:
        for _ in range(5):
            lane.pace("infer").add(run_s)
        few = [lane.submit([threading.get_ident], kind="infer", wake=False) for _ in range(5)]
        assert lane.run_waiting(0.002) is False
        assert {each.results[0] for each in few} == {threading.get_ident()}
        many = [lane.submit([threading.get_ident], kind="infer", wake=False) for _ in range(11)]
        assert lane.run_waiting(0.002) is False
        assert ({lane.result(each)[0] for each in many} == {threading.get_ident()}) is not in_lane


def test_a_lanes_thread_asks_for_the_interpreter_without_delay():
    slack = Path(f"/proc/{threading.get_native_id()}/timerslack_ns")
    if not slack.exists():
        pytest.skip("another system")
    with contextlib.closing(Lane("hurry")) as lane:
        told = lane.call(lambda: Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())
    assert told.strip() == "1"
    assert slack.read_text().strip() != "1"


def test_a_refusal_says_for_how_long_it_holds_and_what_leaves_the_lane_ends_that():
    with Held() as held:
        for _ in range(8):
            held.lane.pace("infer").add(1.0)
        entries, left = [held.submit() for _ in range(4)], held.lane.left
        with pytest.raises(BusyError) as short:
            held.submit(timeout_s=3.0)
        assert short.value.wait_s == 4.0
        assert short.value.holds_s == pytest.approx(4.0 - (3.0 - 1.0) / 1.25)
        with pytest.raises(BusyError) as close:
            held.submit(timeout_s=5.9)  # soon to be admitted, but nothing is lost if not before
        assert close.value.holds_s == pytest.approx((4.0 - 1.0) / 2)
        held.lane.refused_again()
        assert (held.lane.counts.shed, held.lane.left) == (3, left)
        held.lane.cancel(entries[0])
        assert held.lane.left > left


def test_requests_wait_for_what_runs_and_for_what_goes_first_though_they_are_quick(held):
    quick(held.lane)
    stream = held.lane.stream(held.ran.append, is_live=True, priority=1)
    held.lane.submit([lambda: held.ran.append("request")], kind="infer", wake=False)
    stream.put("frame")
    assert held.lane.run_waiting(60.0) is False
    assert held.ran == []
    held.open()
    deadline_s = time.monotonic() + WAIT_S
    while len(held.ran) < 2:
        assert time.monotonic() < deadline_s
    assert held.ran == ["frame", "request"]


def test_whoever_calls_in_whatever_way_there_is_one_at_a_time():
    inside, most, total = [0], [0], [0]

    def work():
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        total[0] += 1
        time.sleep(0)
        inside[0] -= 1
        return True

    lane = Lane("exclusive", Bounds(waiting=1000, inline_s=10.0), between=lambda _: not work())
    quick(lane)
    stream = lane.stream(lambda _: work(), is_live=False)
    waited = lane.stream(lambda _: work(), is_live=False)

    def many(do):
        for _ in range(100):
            do()

    users = [
        lambda: stream.put(0),
        lambda: lane.run_item(waited, 0),
        lambda: lane.run_inline(work, "infer"),
        lambda: (lane.submit([work], kind="infer", wake=False), lane.run_waiting(0.001)),
        lambda: lane.result(lane.submit([work], kind="infer")),
        lambda: lane.call(work),
    ]
    threads = [threading.Thread(target=many, args=(user,)) for user in users for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    lane.close()
    assert (most[0], inside[0]) == (1, 0)
    assert total[0] >= 600


def test_control_work_raises_to_its_caller_and_runs_at_once_on_the_lanes_own_thread():
    lane = Lane("control")
    assert lane.call(lambda: lane.call(threading.current_thread)).name == "control"
    with pytest.raises(InferenceError):
        lane.call(lambda: (_ for _ in ()).throw(InferenceError("no")))
    lane.close()


def test_a_closed_lane_gives_up_what_waits_and_control_work_runs_where_it_is_called():
    with Held() as held:
        entry = held.submit("waits")
        stream = held.lane.stream(held.ran.append, is_live=False)
        stream.put("frame")
        last = held.lane.control(lambda: held.ran.append("control"))
        closing = threading.Thread(target=held.lane.close)
        closing.start()
        with pytest.raises(BusyError, match="closed"):
            held.lane.result(entry)
        held._gate.set()
        closing.join(WAIT_S)
        held.lane.result(last)
        assert held.ran == ["control"]
        assert stream.is_spent
        with pytest.raises(BusyError, match="closed"):
            held.submit()
        with pytest.raises(BusyError, match="closed"):
            held.lane.stream(held.ran.append, is_live=True)
        assert held.lane.call(threading.current_thread) is threading.current_thread()


def test_a_lane_that_was_never_used_has_no_thread():
    lane = Lane("unused")
    lane.close()
    assert lane.call(threading.current_thread) is threading.current_thread()


# -- between


def test_between_two_entries_the_owner_gets_a_turn_and_learns_how_much_waits(held):
    waits, more = [], [True]
    held.lane.between = lambda waiting: (waits.append((waiting, len(held.ran))), bool(more) and more.pop())[1]
    held.submit(1), held.submit(2)
    held.open()
    held.lane.close()
    assert waits[:4] == [(3, 0), (3, 0), (2, 1), (1, 2)]


def test_between_is_called_while_nothing_waits_too():
    looked = threading.Semaphore(0)
    lane = Lane("idle", between=lambda _waiting: looked.release())
    lane.call(lambda: None)
    assert all(looked.acquire(timeout=WAIT_S) for _ in range(3))
    lane.close()


# -- what is to be seen


def test_what_runs_for_too_long_is_stuck():
    with Held(Bounds(stuck_s=5.0)) as held:
        held.clock.now_s += 4.0
        assert (held.lane.is_busy, held.lane.busy_s, held.lane.is_stuck) == (True, 4.0, False)
        held.clock.now_s += 2.0
        assert held.lane.is_stuck


def test_a_lane_knows_how_long_it_was_at_work_with_what_runs_and_not_at_rest(held):
    held.clock.now_s += 4.0
    assert held.lane.worked_s == 4.0
    held.open()
    held.clock.now_s += 10.0
    held.lane.call(lambda: None)
    held.lane.close()
    assert held.lane.worked_s == 4.0


def test_what_comes_between_two_entries_is_work_too():
    clock, between_s = Clock(), [0.5]

    def takes(seconds):
        clock.now_s += seconds

    lane = Lane("sums", between=lambda _waiting: takes(between_s.pop() if between_s else 0), clock=clock)
    lane.call(lambda: takes(2.0))
    lane.close()
    assert lane.worked_s == 2.5


def test_depth_and_p95_are_of_frames_and_requests():
    clock = Clock()

    def take(milliseconds):
        clock.now_s += milliseconds / 1e3

    with Held(clock=clock) as held:
        assert (held.lane.depth, held.lane.p95_ms) == (0, None)
        stream = held.lane.stream(take, is_live=False, capacity=90)
        for _ in range(90):
            stream.put(2)
        for _ in range(10):
            held.lane.submit([lambda: take(30)], kind="infer")
        assert held.lane.depth == 100
        stream.close()
        held.open()
        stream.wait_spent()
        assert held.lane.p95_ms == pytest.approx(30)
        assert held.lane.pace("frame").typical_s == pytest.approx(0.002)
