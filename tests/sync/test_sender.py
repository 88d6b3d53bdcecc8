"""A fleet that is slow is not given its work twice; one that lost something gets it again."""

from __future__ import annotations

import heapq
import itertools
import random
import tempfile
from collections import deque
from pathlib import Path

import pytest
from conftest_sync import FakeClock, memory_folder, memory_path  # noqa: F401 - tmp_path, in memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.sync.outbox import Outbox
from edgekit.sync.retry_timer import MAX_S, MIN_S, RetryTimer
from edgekit.sync.sender import WINDOW, Sender


def event(number: int) -> wire.EventRecord:
    return wire.EventRecord(
        mono_ns=number, unix_ms=number, pipeline="door", model="m", version="1.0.0", kind="appear",
        label=f"e{number}",
    )  # fmt: skip


def metric(number: int) -> wire.MetricReport:
    return wire.MetricReport(
        mono_ns=number, unix_ms=number, pipeline="door", model="m", version="1.0.0", variant="v",
        period_s=10.0, frames=5,
    )  # fmt: skip


class Device:
    """An outbox and its sender on a fake clock; ``sent`` has every batch in order."""

    def __init__(self, folder, clock, jitter=lambda: 0.0) -> None:
        self.clock = clock
        self.outbox = Outbox(folder / "outbox.sqlite", clock, commit_delay_s=0)
        self.sender = Sender(self.outbox, jitter)
        self.sender.connected(clock.now_ns)
        self.sent: list[tuple[int, int]] = []

    def take(self) -> list[tuple[int, int]]:
        """What it sends now: the first and last number of each batch."""
        batches = [
            wire.decode(body, wire.RawBatch) for _, body, _ in self.sender.take(self.clock.monotonic_ns())
        ]
        found = [(batch.seq0, batch.seq0 + len(batch.items) - 1) for batch in batches]
        self.sent += found
        return found

    def acknowledge(self, watermark: int) -> None:
        self.sender.acknowledged(wire.Ack(self.outbox.boot, watermark), self.clock.monotonic_ns())

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.outbox.put(event(number))


class Fleet:
    """Commits what arrives in order; says up to where nothing is missing."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.batches = 0
        self.repeated = 0

    def take(self, first: int, last: int) -> int:
        self.batches += 1
        numbers = set(range(first, last + 1))
        self.repeated += numbers <= self.seen
        self.seen |= numbers
        return self.watermark

    @property
    def watermark(self) -> int:
        return next(number for number in itertools.count() if number + 1 not in self.seen)


@pytest.fixture
def device(tmp_path, clock):
    made = Device(tmp_path, clock)
    yield made
    made.outbox.close()


# -- the timer


def test_the_first_wait_is_three_seconds_and_doubles_to_a_bound():
    timer = RetryTimer(lambda: 0.0)
    waits = [timer.wait_s]
    for _ in range(9):
        timer.double()
        waits.append(timer.wait_s)
    assert waits == [3, 6, 12, 24, 48, 96, 180, 180, 180, 180]


def test_a_fast_fleet_never_shortens_the_wait_below_three_seconds():
    timer = RetryTimer(lambda: 0.0)
    for _ in range(100):
        timer.sample(0.01)
    assert timer.wait_s == MIN_S


def test_the_first_sample_and_those_after_follow_rfc_6298():
    timer = RetryTimer(lambda: 0.0)
    timer.sample(20.0)  # deviation: half of it
    assert timer.wait_s == 20 + 4 * 10
    timer.sample(28.0)  # deviation 3/4 * 10 + 1/4 * 8, smoothed 7/8 * 20 + 1/8 * 28
    assert timer.wait_s == pytest.approx(21 + 4 * 9.5)


def test_what_doubling_made_of_the_wait_stays_until_a_sample():
    timer = RetryTimer(lambda: 0.0)
    for _ in range(3):
        timer.double()
    assert timer.wait_s == 24
    timer.sample(0.1)
    assert timer.wait_s == MIN_S


def test_a_new_connection_undoes_the_doubling_and_keeps_the_estimate():
    timer = RetryTimer(lambda: 0.0)
    timer.sample(20.0)
    timer.double()
    timer.reset()
    assert timer.wait_s == 60


@given(
    st.lists(st.none() | st.floats(0, 1e6), max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_the_wait_is_always_within_its_bounds(delays, jitter):
    timer = RetryTimer(lambda: jitter)
    for delay_s in delays:
        if delay_s is None:
            before = timer.wait_s
            timer.double()
            assert timer.wait_s >= before
        else:
            timer.sample(delay_s)
        assert MIN_S <= timer.wait_s <= 1.5 * MAX_S


@given(st.floats(0, 100), st.lists(st.floats(0.9, 1.1), min_size=30, max_size=60))
def test_the_wait_settles_above_the_delay_and_not_far_above(delay_s, wobbles):
    timer = RetryTimer(lambda: 0.0)
    for wobble in wobbles:
        timer.sample(delay_s * wobble)
    assert max(MIN_S, 0.9 * delay_s + 1) <= timer.wait_s <= max(MIN_S, 2 * delay_s + 2)


# -- the sender


def test_a_stall_sends_the_batch_above_the_watermark_again_and_no_other(device, clock):
    for number in range(1, 6):
        device.put(number)
        device.take()
    clock.advance(2.9)
    assert device.take() == []
    clock.advance(0.1)
    assert device.take() == [(1, 5)]  # what was five batches is one
    clock.advance(5.9)
    assert device.take() == []
    clock.advance(0.1)
    assert device.take() == [(1, 5)]


def test_a_late_answer_to_everything_costs_no_more_repeats(device, clock):
    device.put(1, 2)
    device.take()
    clock.advance(3)
    device.take()
    clock.advance(1)
    device.acknowledge(2)
    device.put(3)
    assert device.take() == [(3, 3)]
    clock.advance(4)
    device.acknowledge(3)
    assert device.sender._timer.wait_s == 4 + 4 * 2


def test_an_answer_to_what_was_sent_twice_is_no_sample(device, clock):
    device.put(1)
    device.take()
    clock.advance(3)
    device.take()
    clock.advance(0.01)
    device.acknowledge(1)
    assert device.sender._timer.wait_s == 6


def test_what_a_fleet_lost_is_sent_again_as_soon_as_it_answers_and_stands_still(tmp_path, clock):
    device = Device(tmp_path, clock)
    for number in range(1, 4001):
        device.outbox.put(event(number))
    lost = device.take()
    assert len(lost) == WINDOW
    clock.advance(3)
    fleet = Fleet()
    for _ in range(100):
        for batch in device.take():
            device.acknowledge(fleet.take(*batch))
        clock.advance(0.1)
    assert device.outbox.watermark == 4000
    assert fleet.repeated <= 1
    device.outbox.close()


def test_a_lost_metric_below_an_event_is_sent_again(device, clock):
    """Events go ahead of metrics, but the watermark waits for the metric."""
    device.outbox.put(metric(1))
    device.outbox.put(event(2))
    assert device.take() == [(2, 2), (1, 1)]
    device.acknowledge(0)  # the event arrived, the metric did not
    clock.advance(3)
    assert device.take() == [(1, 1)]


def test_an_event_that_overtook_metrics_does_not_make_the_fleet_look_slow(device, clock):
    for number in range(1, 401):
        device.outbox.put(metric(number))
    device.outbox.put(event(401))
    assert device.take() == [(401, 401), (1, 200), (201, 400)]
    for watermark in (200, 401):
        clock.advance(0.5)
        device.acknowledge(watermark)
    assert device.sender._timer.wait_s == MIN_S


def test_events_do_not_fill_the_window_while_metrics_wait_between_them(device, clock):
    """The watermark would never move: every second message is a metric."""
    for number in range(1, 101):
        device.outbox.put((event if number % 2 else metric)(number))
    sent = device.take()
    assert [first for first, _ in sent] == [*range(1, 20, 2), *range(2, 21, 2)]
    device.acknowledge(20)
    assert min(device.take()) == (21, 21)


def test_after_a_reconnect_everything_above_the_watermark_is_sent_again(device, clock):
    device.put(1, 2)
    device.take()
    device.sender.connected(clock.now_ns)
    assert device.take() == [(1, 2)]
    clock.advance(0.1)
    device.acknowledge(2)
    assert device.sender._timer.wait_s == MIN_S


STEP_S = 0.25


def simulate(devices, clock, commit, seconds, put_every_s=1.0):
    """Run devices against a fleet, and return what it saw of each.

    ``commit(queue, now_s)`` takes from the queue of (sent at, device, batch) what is acknowledged now.
    """
    fleets = {device: Fleet() for device in devices}
    queue: deque = deque()
    every = int(put_every_s / STEP_S)
    for step in range(int(seconds / STEP_S)):
        now_s = step * STEP_S
        for number, device in enumerate(devices):
            if (step + number) % every == 0:
                device.put(step)
            queue += [(now_s, device, batch) for batch in device.take()]
        for _, device, batch in commit(queue, now_s):
            device.acknowledge(fleets[device].take(*batch))
        clock.advance(STEP_S)
    return fleets.values()


def test_a_fleet_that_answers_20_s_late_gets_hardly_anything_twice(device, clock):
    def late(queue, now_s):
        while queue and queue[0][0] <= now_s - 20:
            yield queue.popleft()

    (fleet,) = simulate([device], clock, late, 600)
    assert fleet.batches > 400
    assert fleet.repeated <= 3
    assert device.sender.counters["repeated"] <= 3


def test_a_fleet_that_falls_behind_is_not_buried_in_repeats(tmp_path, clock):
    """It stands still for a minute, and then works a quarter faster than 20 devices send."""
    jitter = random.Random(7)
    devices = [Device(tmp_path / str(number), clock, jitter.random) for number in range(20)]
    waited = 0

    def behind(queue, now_s):
        nonlocal waited
        waited = max(waited, len(queue))
        for _ in range(0 if now_s < 60 else 3):
            if queue:
                yield queue.popleft()

    fleets = simulate(devices, clock, behind, 400, put_every_s=2.0)
    sent = sum(device.sender.counters["batches"] for device in devices)
    repeated = sum(device.sender.counters["repeated"] for device in devices)
    assert sum(fleet.batches for fleet in fleets) > 3000
    assert waited <= 20 * (WINDOW + 6)
    assert repeated <= 0.05 * sent
    assert all(device.outbox.last_seq - device.outbox.watermark < 10 for device in devices)
    for device in devices:
        device.outbox.close()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    delays=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=8),
    losses=st.lists(st.booleans(), min_size=1, max_size=12),
    metrics=st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_whatever_is_late_or_lost_everything_arrives_and_the_window_holds(delays, losses, metrics):
    """Batches and acknowledgements are lost for two minutes, and late all the time."""
    clock, fleet = FakeClock(), Fleet()
    delay, lost = itertools.cycle(delays), itertools.cycle(losses)
    coming: list = []
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        device = Device(Path(folder), clock)
        for step in range(2400):
            now_s, is_lossy = step / 2, step < 240
            if step < 300:
                device.outbox.put((metric if metrics[step % len(metrics)] else event)(step))
            for batch in device.take():
                if not (is_lossy and next(lost)):
                    heapq.heappush(coming, (now_s + next(delay), step, batch))
            while coming and coming[0][0] <= now_s:
                watermark = fleet.take(*heapq.heappop(coming)[2])
                if not (is_lossy and next(lost)):
                    device.acknowledge(watermark)
            assert len(device.sender._under_way) <= WINDOW
            clock.advance(0.5)
        assert device.outbox.watermark == device.outbox.last_seq == 300
        device.outbox.close()


def test_a_device_waits_as_long_as_the_fleet_says_it_is_behind(tmp_path):
    """With no delay measured yet: ten thousand that reconnect would else all repeat after three seconds."""
    clock = FakeClock()
    device = Device(tmp_path, clock)
    device.put(1, 2)
    device.sender.acknowledged(wire.Ack(device.outbox.boot, 0, 60_000), clock.monotonic_ns())
    device.take()
    assert device.sender.next_look_s(clock.monotonic_ns()) == 61.0
    device.sender.acknowledged(wire.Ack(device.outbox.boot, 1), clock.monotonic_ns())
    assert device.sender.next_look_s(clock.monotonic_ns()) == MIN_S


def test_what_the_fleet_refused_is_kept_with_its_reason_and_counted(tmp_path):
    clock = FakeClock()
    device = Device(tmp_path, clock)
    device.sender.acknowledged(wire.Ack("", 0, refused=("reported: no", "over quota")), 0)
    assert device.sender.refusal == "over quota"
    assert device.sender.counters["refused"] == 2
    assert device.sender.counters["bad_acks"] == 0
