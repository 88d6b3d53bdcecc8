"""Several replicas of a model: who gets a request, and what becomes of it where a replica is lost."""

import asyncio
import queue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_offers import NEVER, Group, answered, lose, until, whose
from scripted import Scripted

from edgekit.base.joint import Joint
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendUnavailableError,
    BusyError,
    InferenceError,
)
from edgekit.serve.dispatch import least
from edgekit.serve.errors import HttpError
from edgekit.serve.models import LOADING, READY, UNAVAILABLE
from edgekit.serve.ports import Limits


@pytest.fixture
def group():
    with Group("a", "b") as found:
        yield found.load()


@pytest.fixture
def held(group):
    """Both replicas with a request that runs, and one that waits for each."""
    group.running = list(group.begin().values())
    group.waiting = [group.ask(3), group.ask(4)]
    return group


# -- who gets it


LOADS = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=6)


@given(LOADS, st.integers(-1, 5))
def test_the_chosen_has_the_fewest_outstanding_and_of_those_none_is_much_faster(loads, after):
    outstanding, run_s = loads[least(loads, after)]
    fewest = [load for load in loads if load[0] == min(count for count, _ in loads)]
    assert outstanding == fewest[0][0]
    assert run_s <= 1.1 * min(seconds for _, seconds in fewest)


def test_equal_ones_take_turns():
    turns, at = [], -1
    for _ in range(6):
        at = least([(0, 0.10), (0, 0.105), (0, 0.3), (0, 0.1)], at)
        turns.append(at)
    assert turns == [0, 1, 3, 0, 1, 3]


def test_one_that_was_not_measured_is_tried_first():
    assert least([(0, 0.001), (0, 0.0)], after=1) == 1


def test_replicas_alike_take_turns(group):
    chosen = []
    for _ in range(4):
        replica = group.entry.lane._choose("not measured", ())
        replica.outstanding -= 1
        chosen.append(replica.name)
    assert chosen == ["a", "b", "a", "b"]


def test_requests_are_spread_and_answered_by_whichever_they_wait_for(held):
    assert held.rows("outstanding") == [2, 2]
    held.open_gates()
    answers = [answered(each) for each in (*held.running, *held.waiting)]
    assert sorted(value for _, value in answers) == [2, 2, 6, 8]
    assert sorted(name for name, _ in answers) == ["a", "a", "b", "b"]
    until(lambda: held.rows("outstanding") == [0, 0])
    assert held.rows("answered") == [2, 2]


def test_the_free_one_gets_the_next_however_slow_it_is(group):
    begun = group.begin()
    for replica, seconds in zip(group.entry._offers, (0.001, 1.0), strict=True):
        replica.lane.pace("infer").add(seconds)
    group.offers[1].model.gate.set()
    assert answered(begun["b"]) == ("b", 2)
    until(lambda: group.rows("outstanding") == [1, 0])
    assert whose(group.ask(2)) == "b"
    group.offers[0].model.gate.set()
    assert answered(begun["a"]) == ("a", 2)


# -- one that is lost


def test_what_waits_for_a_lost_one_is_run_by_another_and_so_is_what_it_was_lost_in(held):
    first, second = held.offers
    lose(first.model)
    first.model.gate.set()
    until(lambda: held.rows("state") == [UNAVAILABLE, READY])
    assert held.rows("outstanding") == [0, 4]
    second.model.gate.set()
    answers = [answered(each) for each in (*held.running, *held.waiting)]
    assert answers == [("b", 2), ("b", 2), ("b", 6), ("b", 8)]
    assert (held.rows("moved"), held.rows("losses")) == ([2, 0], [1, 0])
    assert held.entry.state == READY
    assert "it was pulled out" in held.rows("reason")[0]


def test_what_waits_does_not_wait_until_the_lost_one_is_freed(held):
    first, second = held.offers
    first.failing.clear()
    lose(first.model)
    second.model.gate.set()
    first.model.gate.set()
    assert [answered(each)[0] for each in (*held.running, *held.waiting)] == ["b"] * 4
    assert not first.model.is_closed


def test_a_request_that_came_to_a_lost_one_just_before_it_was_known_is_run_by_another(held, monkeypatch):
    monkeypatch.setattr(held.entry.lane, "leave", lambda _: None)
    lose(held.offers[0].model)
    held.open_gates()
    assert [answered(each)[1] for each in (*held.running, *held.waiting)] == [2, 2, 6, 8]
    assert held.rows("moved") == [2, 0]


def test_it_comes_back_and_gets_requests_again(group):
    group.lose(0)
    group.offers[0].give_back()
    assert group.rows("state") == [READY, READY]
    assert sorted(group.begin()) == ["a", "b"]
    assert (group.rows("returns"), group.entry.returns) == ([1, 0], 1)


def test_a_request_that_loses_two_of_them_is_not_tried_on_the_third():
    with Group("a", "b", "c") as group:
        group.load()
        for offer in group.offers:
            lose(offer.model)
        with pytest.raises(AcceleratorLostError):
            answered(group.ask(1))
        until(lambda: group.rows("state").count(READY) == 1)


def test_without_any_the_model_answers_503_and_again_once_one_is_back(group):
    for offer in group.offers:
        lose(offer.model)
    with pytest.raises(AcceleratorLostError):
        answered(group.ask(1))
    until(lambda: group.entry.state == UNAVAILABLE)
    assert not group.entry.is_ready
    with pytest.raises(HttpError, match="a: a is lost: it was pulled out; b: ") as refused:
        group.ask(1)
    assert refused.value.status == 503
    group.offers[1].give_back()
    assert answered(group.ask(1)) == ("b", 2)


def test_one_whose_golden_sample_is_off_is_taken_out(group):
    group.offers[0].wrong = True
    until(lambda: group.rows("state") == [UNAVAILABLE, READY])
    assert group.offers[0].model.is_closed
    assert answered(group.ask(1)) == ("b", 2)
    assert group.rows("losses") == [1, 0]


def test_an_inference_that_fails_is_the_requests_error_and_has_the_replica_checked(group):
    group.offers[0].model.errors.append(InferenceError("this one fails"))
    group.offers[1].model.errors.append(InferenceError("this one fails"))
    with pytest.raises(InferenceError):
        answered(group.ask(1))
    assert [offer.doubts.acquire(timeout=0.0) for offer in group.offers].count(True) == 1
    until(lambda: group.rows("outstanding") == [0, 0])
    assert group.rows("answered") == [0, 0]
    assert group.rows("state") == [READY, READY]


# -- one that hangs


@pytest.fixture
def hanging():
    """The first replica hangs in a request; the second one is idle."""
    with Group("a", "b", limits=Limits(stuck_s=1.0)) as group:
        begun = group.load().begin()
        group.offers[1].model.gate.set()
        answered(begun["b"])
        group.hung = begun["a"]
        yield group


def test_one_that_hangs_is_taken_out_and_what_waits_for_it_is_run_by_another(hanging):
    first = hanging.offers[0]
    lane = next(iter(hanging.entry._offers)).lane
    hanging.offers[1].model.gate.clear()
    waiting = [hanging.ask(number) for number in range(2, 6)]
    assert "a" in map(whose, waiting)
    hanging.offers[1].model.gate.set()
    with pytest.raises(HttpError, match="replica a: an inference took longer than 1 s") as refused:
        answered(hanging.hung)
    assert refused.value.status == 503
    assert [answered(each)[0] for each in waiting] == ["b"] * 4
    assert hanging.entry.state == READY
    assert (first.losses, first.rested) == (["an inference took longer than 1 s"], True)
    until(lambda: hanging.rows("outstanding") == [0, 0])
    assert hanging.rows("state") == [UNAVAILABLE, READY]
    assert not first.model.is_closed  # its thread is still in it
    first.model.gate.set()
    until(lambda: first.model.is_closed)
    until(lambda: not lane._thread.is_alive())


def test_it_is_opened_again_beside_the_thread_that_hangs(hanging):
    first, _ = hanging.offers
    until(lambda: hanging.rows("state") == [UNAVAILABLE, READY])
    assert len(first.models) == 1
    first.due_s = 0.0
    until(lambda: hanging.rows("state") == [READY, READY])
    assert len(first.models) == 2
    assert sorted(hanging.begin()) == ["a", "b"]
    hanging.open_gates()
    assert (hanging.rows("losses"), hanging.rows("returns")) == ([1, 0], [1, 0])


def test_the_last_one_that_hangs_is_left_to_who_can_end_the_process(hanging):
    first, second = hanging.offers
    until(lambda: hanging.rows("state") == [UNAVAILABLE, READY])
    hung = hanging.begin()["b"]
    until(lambda: hanging.entry.lane.is_stuck)
    assert not hanging.entry.is_ready
    hanging.entry._look(0)
    assert (hanging.entry.state, second.losses, hung.done.is_set()) == (READY, [], False)
    second.model.gate.set()
    assert answered(hung) == ("b", 2)
    assert hanging.entry.is_ready
    assert first.losses == ["an inference took longer than 1 s"]


# -- refusals, deadlines, clients that leave


def test_where_all_refuse_the_shortest_wait_is_told():
    with Group("a", "b", limits=Limits(waiting=2)) as group:
        running = list(group.load().begin().values())
        for replica, seconds in zip(group.entry._offers, (4.0, 1.0), strict=True):
            replica.lane.pace("infer").add(seconds)
        waiting = [group.ask(1) for _ in range(4)]
        with pytest.raises(BusyError) as refused:
            group.ask(1)
        assert 1.9 <= refused.value.wait_s <= 4.0
        assert (group.entry.lane.counts.shed, group.rows("outstanding")) == (1, [3, 3])
        group.open_gates()
        assert len([answered(each) for each in (*running, *waiting)]) == 6


def test_one_that_could_not_answer_in_time_leaves_the_request_to_a_faster_one(group):
    slow, fast = group.entry._offers
    for replica in (slow, fast):
        replica.lane.pace("infer").add(0.001)
    begun = group.begin()
    group.offers[0].model.gate.set()
    answered(begun["a"])
    slow.lane.pace("infer").typical_s = 2.0
    until(lambda: group.rows("outstanding") == [0, 1])
    second = group.ask(2, timeout_s=1.0)  # the slow one has none outstanding
    assert group.rows("outstanding") == [0, 2]
    group.open_gates()
    assert answered(second)[0] == "b"
    assert group.entry.lane.counts.shed == 0


def test_what_is_given_up_before_it_begins_never_runs(held):
    lane = held.entry.lane
    lane.cancel(held.waiting[0])
    lane.expire(held.waiting[1])
    held.open_gates()
    [answered(each) for each in held.running]
    until(lambda: held.rows("outstanding") == [0, 0])
    assert sum(len(offer.model.runs) for offer in held.offers) == 2
    counts = lane.counts
    assert (counts.cancelled_queued, counts.deadline_missed) == (1, 1)


def test_counts_outlive_the_lane_of_one_that_hung(hanging):
    lane = hanging.entry.lane
    waiting = [hanging.ask(2), hanging.ask(2)]
    lane.cancel(hanging.hung)
    left = lane.left
    until(lambda: hanging.rows("state") == [UNAVAILABLE, READY])
    [answered(each) for each in waiting]
    assert lane.counts.cancelled_running == 1
    assert lane.left > left


# -- batches


class Together:
    def __init__(self, model):
        self.model, self.sizes = model, []

    def run(self, requests):
        self.sizes.append(len(requests))
        return [self.model.infer(feeds) for feeds in requests]

    def close(self):
        pass


def test_each_batches_what_waits_for_it_and_a_moved_request_is_in_the_others_batch():
    with Group("a", "b", batch=4, together=Together) as group:
        group.load()
        for replica in group.entry._offers:
            until(lambda replica=replica: "at once" in replica.entry.batching._why)
            replica.entry.batching.joint = None  # what was measured is no matter here
        joints = []
        for replica in group.entry._offers:
            joint = Joint(replica.entry.batching._run_at_once, 4)
            replica.entry.batching._together = Together(replica.entry.servable)
            replica.entry.batching.joint = joint
            joints.append(joint)
        running = list(group.begin().values())
        waiting = [group.ask(1) for _ in range(4)]
        assert sorted(joints.index(entry.joint) for entry in waiting) == [0, 0, 1, 1]
        lose(group.offers[0].model)
        group.offers[0].model.gate.set()
        until(lambda: group.rows("state") == [UNAVAILABLE, READY])
        assert {joints.index(entry.joint) for entry in waiting} == {1}
        group.open_gates()
        assert {answered(each)[0] for each in (*running, *waiting)} == {"b"}
        assert group.rows("batch")[1]["requests"] >= 4


# -- loading and unloading


def test_at_first_all_must_open_and_until_then_none_answers():
    with Group("a", "b") as group:
        group.offers[1].errors.append(BackendUnavailableError("there is no such device", hint="plug it in"))
        with pytest.raises(BackendUnavailableError, match="replica 'b': there is no such device") as failed:
            group.load()
        assert failed.value.hint == "plug it in"
        assert group.entry.state == LOADING
        assert not group.entry.is_ready


def test_where_not_all_are_needed_the_others_answer_and_it_is_opened_when_it_is_due():
    with Group("a", "b", needs_all=False) as group:
        group.offers[0].errors.append(BackendUnavailableError("there is no such device"))
        group.load()
        assert group.rows("state") == [UNAVAILABLE, READY]
        assert answered(group.ask(1)) == ("b", 2)
        group.offers[0].due_s = 0.0
        until(lambda: group.rows("state") == [READY, READY])
        assert group.entry.replicas()[0]["returns"] == 1


def test_none_that_opens_is_an_error_with_the_reason_of_each():
    with Group("a", "b", needs_all=False) as group:
        for offer in group.offers:
            offer.errors.append(BackendUnavailableError(f"no {offer.name}"))
        with pytest.raises(BackendUnavailableError, match="replica 'a': no a") as failed:
            group.load()
        assert failed.value.reasons == ("replica 'b': no b",)
        assert not group.entry.is_held


def test_unloading_answers_what_waits_and_frees_all(held):
    async def unload():
        task = asyncio.create_task(held.entry.unload())
        await asyncio.sleep(0)
        with pytest.raises(HttpError):
            held.entry.require()
        held.open_gates()
        await task

    asyncio.run(unload())
    assert [answered(each)[1] for each in (*held.running, *held.waiting)] == [2, 2, 6, 8]
    assert [offer.model.is_closed for offer in held.offers] == [True, True]
    assert (held.entry.state, held.entry.servable) == (UNAVAILABLE, None)
    held.offers[0].due_s = NEVER
    held.load()
    assert answered(held.ask(1))[1] == 2
    assert [len(offer.models) for offer in held.offers] == [2, 2]


def test_one_that_is_being_opened_does_not_outlive_an_unload():
    with Group("a", "b", needs_all=False) as group:
        first = group.offers[0]
        first.errors.append(BackendUnavailableError("there is no such device"))
        group.load()
        first.opening.clear()
        first.has_begun_to_open.clear()
        first.due_s = 0.0
        assert first.has_begun_to_open.wait(60)

        async def unload():
            task = asyncio.create_task(group.entry.unload())
            await asyncio.sleep(0)
            first.opening.set()
            await task

        asyncio.run(unload())
        assert [model.is_closed for model in first.models] == [True]
        replica = next(iter(group.entry._offers))  # a look that began before
        replica.lane.call(lambda: group.entry._reopen(replica))
        assert len(first.models) == 1
        assert group.rows("ready") == [False, False]


def test_kept_answers_are_forgotten_when_a_replica_comes_or_goes():
    with Group("a", "b", limits=Limits(cache_bytes=1 << 20)) as group:
        group.load()
        cache = group.entry.cache
        assert cache is not None
        lose(group.offers[0].model)
        answered(group.ask(1))
        until(lambda: group.rows("state") == [UNAVAILABLE, READY])
        assert group.entry.cache is not None
        assert group.entry.cache is not cache


# -- whatever happens, in whichever order


class Stepped(Scripted):
    """Ends each inference only when it is told how."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.verdicts = queue.SimpleQueue()

    def infer(self, feeds):
        self.entered.release()
        if self.verdicts.get(timeout=60) == "lose":
            raise AcceleratorLostError("it was pulled out")
        return {"y": 2 * feeds["x"]}


class Story:
    """Requests to some replicas, what is known of each, and what must have become of it."""

    def __init__(self, group):
        self.group = group
        self.entries, self.lost_once, self.failed = {}, set(), set()
        self.running = {}

    def settle(self):
        """Wait until every ready replica that has requests runs one."""
        for offer, row in zip(self.group.offers, self.group.entry.replicas(), strict=True):
            if row["ready"] and row["outstanding"] and offer.name not in self.running:
                assert offer.model.entered.acquire(timeout=60)
                (self.running[offer.name],) = [
                    number
                    for number, entry in self.entries.items()
                    if entry.began_s and not entry.done.is_set() and whose(entry) == offer.name
                ]

    def ask(self, _):
        ready = [row for row in self.group.entry.replicas() if row["ready"]]
        if not ready:
            with pytest.raises(HttpError):
                self.group.ask()
            return
        number = len(self.entries) + 1
        entry = self.entries[number] = self.group.ask(number)
        before = {row["name"]: row["outstanding"] for row in ready}
        assert before[whose(entry)] == min(before.values())

    def finish(self, offer):
        if (number := self.running.pop(offer.name, None)) is not None:
            offer.model.verdicts.put("answer")
            assert answered(self.entries[number])[1] == 2 * number
            until(lambda: self.outstanding(offer) == self.still_there(offer))

    def lose(self, offer):
        if (number := self.running.pop(offer.name, None)) is None:
            return
        there = [n for n, e in self.entries.items() if not e.done.is_set() and whose(e) == offer.name]
        has_other = self.group.rows("ready").count(True) > 1
        self.failed.update([] if has_other else there, [number] if number in self.lost_once else [])
        self.lost_once.add(number)
        offer.model.verdicts.put("lose")
        until(lambda: self.group.rows("state")[self.group.offers.index(offer)] == UNAVAILABLE)
        until(lambda: self.outstanding(offer) == 0)

    def bring_back(self, offer):
        if self.group.rows("state")[self.group.offers.index(offer)] == UNAVAILABLE:
            offer.give_back()

    def outstanding(self, offer):
        return self.group.rows("outstanding")[self.group.offers.index(offer)]

    def still_there(self, offer):
        return sum(not e.done.is_set() and whose(e) == offer.name for e in self.entries.values())

    def end(self):
        while any(not entry.done.is_set() for entry in self.entries.values()):
            self.settle()
            for offer in self.group.offers:
                self.finish(offer)
        for number, entry in self.entries.items():
            if number in self.failed:
                assert isinstance(entry.error, (AcceleratorLostError, HttpError))
            else:
                assert answered(entry)[1] == 2 * number


ACTS = st.sampled_from(["ask", "ask", "ask", "finish", "lose", "bring_back"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ACTS, st.integers(0, 2)), max_size=25))
def test_a_request_goes_where_the_fewest_are_and_none_that_has_not_begun_is_lost(acts):
    with Group("a", "b", "c", kind=Stepped) as group:
        group.load()
        story = Story(group)
        for act, position in acts:
            getattr(story, act)(group.offers[position])
            story.settle()
        story.end()
