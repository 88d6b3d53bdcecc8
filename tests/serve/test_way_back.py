"""What ends in the lane's thread comes to the event loop in one call, and its wait counts before the next."""

import asyncio
import threading

import pytest

from edgekit.base.entry import Entry
from edgekit.base.lane import Lane
from edgekit.serve.lane import Asked, Terms, WayBack


def ended(ended_s=0.0):
    entry = Entry([], "infer", 0.0)
    entry.ended_s = ended_s
    return entry


def elsewhere(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Calls:
    """An event loop that keeps what is to be called."""

    def __init__(self):
        self.kept = []

    def call_soon_threadsafe(self, call):
        self.kept.append(call)


def test_all_that_end_before_the_loop_looks_come_in_one_call_and_in_their_order():
    loop, came = Calls(), []
    way = WayBack(clock=lambda: 7.5)
    entries = [ended(7.0), ended(7.2), ended(7.3)]
    on_done = way.to(loop, came.append)
    elsewhere(lambda: [on_done(entry) for entry in entries[:2]])
    assert (len(loop.kept), came) == (1, [])
    loop.kept.pop()()
    assert (came, way.typical_s) == (entries[:2], 0.5)
    elsewhere(lambda: on_done(entries[2]))
    assert len(loop.kept) == 1
    loop.kept.pop()()
    assert came == entries
    on_done(entries[0])  # in the loop's own thread: at once
    assert (came[3:], loop.kept) == ([entries[0]], [])


def test_where_one_raises_those_behind_it_still_come():
    loop, came = Calls(), []
    way = WayBack()
    fails, on_done = way.to(loop, lambda _: 1 / 0), way.to(loop, came.append)
    last = ended()
    elsewhere(lambda: (fails(ended()), on_done(last)))
    with pytest.raises(ZeroDivisionError):
        loop.kept.pop()()
    loop.kept.pop()()
    assert came == [last]


def test_a_request_to_a_busy_lane_has_to_be_ready_as_much_earlier_as_its_answer_waits_for_the_loop():
    async def deadlines():
        lane, way, gate, begun = (
            Lane("way"),
            WayBack(clock=lambda: 0.25),
            threading.Event(),
            threading.Event(),
        )
        delivered = asyncio.Event()
        on_done = way.to(asyncio.get_running_loop(), lambda _: delivered.set())
        elsewhere(lambda: on_done(ended()))
        await delivered.wait()
        told = []
        for is_busy in (False, True):
            if is_busy:
                lane.control(lambda: (begun.set(), gate.wait(60)))
                begun.wait(60)
            asked = Asked(lane, way, lambda: None, Terms("infer", 10.0), lambda _: None)
            told.append(asked.entry.deadline_s - asked.entry.queued_s - 10.0)
            told.append(asyncio.get_running_loop().time() - asked.entry.queued_s)
            asked.end()
        gate.set()
        lane.close()
        return told

    free, free_age_s, busy, busy_age_s = asyncio.run(deadlines())
    assert (free, busy) == (pytest.approx(0), pytest.approx(0))
    assert free_age_s < 0.25 <= busy_age_s
