"""What one device claims, or floods, stays in its cage; and the device is told why."""

import sqlite3

import pytest

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.ingest.claims import MAX_GAP, MAX_NUMBER
from edgekit_fleet.ingest.intake import Intake, Message
from edgekit_fleet.ingest.quota import BURST_BYTES, BURST_MESSAGES, MESSAGES_PER_S, Quota

NOW_MS = 1_790_000_000_000


class Down:
    """Remembers acknowledgements by device."""

    def __init__(self):
        self.acks = []

    def publish(self, device, leaf, body, *, retain=False):
        if leaf == "ack":
            self.acks.append((device, wire.decode(body, wire.Ack)))


@pytest.fixture
def down(services):
    services.downlink = Down()
    for device in ("d", "other"):
        services.devices.enroll(device, NOW_MS, None)
    return services.downlink


@pytest.fixture
def clock():
    return [NOW_MS]


@pytest.fixture
def intake(services, down, clock):
    return Intake(services, lambda: clock[0], Strangers())


def sketch(*counts, **changes):
    fields = {
        "scale": 5,
        "zero": 0,
        "offset": 100,
        "counts": list(counts),
        "total": 1.0,
        "low": 1.0,
        "high": 2.0,
    }
    return Sketch(**{**fields, **changes})


def report(**changes):
    fields = {
        "mono_ns": 0,
        "unix_ms": NOW_MS,
        "pipeline": "p",
        "model": "m",
        "version": "1.0.0",
        "variant": "v",
    }
    return wire.MetricReport(**{**fields, "period_s": 10.0, "frames": 150, **changes})


def gap(first, last):
    return wire.Gap(mono_ns=0, unix_ms=NOW_MS, first=first, last=last)


def message(leaf, record, seq=1, device="d", arrived_ms=NOW_MS):
    batch = wire.Batch(boot="b", seq0=seq, items=[record])
    return Message(wire.up(device, leaf), wire.encode(batch), arrived_ms)


def times(count):
    histogram = Histogram()
    histogram.add(8.0, count)
    return histogram.to_wire()


IMPOSSIBLE = {
    "frames": report(frames=1 << 62),
    "negative frames": report(frames=-1),
    "no time": report(period_s=1e-300),
    "frames in no time": report(period_s=0.0, frames=1),
    "a century": report(period_s=3e9),
    "sketch": report(infer_ms=sketch(1 << 62)),
    "sketch of zeros": report(latency_ms=sketch(zero=1 << 62)),
    "negative sketch": report(infer_ms=sketch(-1, 2)),
    "endless time": report(infer_ms=sketch(5, high=1e300)),
    "time that is no number": report(infer_ms=sketch(5, low=float("nan"))),
    "label": report(labels={"person": 1 << 50}),
    "total": report(total=1 << 62),
    "stage": report(stages=(wire.StageState(name="s", inferences=1 << 62),)),
    "stage's sketch": report(stages=(wire.StageState(name="s", infer_ms=sketch(1 << 62)),)),
    "sensor": report(sensors={"temperature_c": float("inf")}),
    "gap above itself": gap(1, 1 << 61),
    "gap that ends before it begins": gap(1, 0),
    "gap from nothing": gap(0, 1),
}


@pytest.mark.parametrize("record", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_figure_is_refused_and_the_device_is_told_why(services, intake, down, record):
    leaf = "m" if isinstance(record, wire.MetricReport) else "ev"
    intake.take([message(leaf, record)])
    assert services.messages.counts() == {"metrics": 0, "events": 0, "refused": 1}
    ((device, ack),) = down.acks
    (reason,) = ack.refused
    assert (device, ack.watermark) == ("d", 1)
    assert reason.startswith("message 1: ")
    assert reason.removeprefix("message 1: ") == services.messages.refused()[0].reason


@pytest.mark.parametrize(
    "record",
    [
        report(),
        report(period_s=0.01, frames=1, infer_ms=times(1)),
        report(period_s=0.0, frames=0),
        report(period_s=30 * 86_400.0, frames=30 * 86_400 * 60, infer_ms=times(30 * 86_400 * 60)),
        report(period_s=10.0, frames=500_000, infer_ms=times(500_000)),
    ],
    ids=["usual", "short", "nothing", "a merged month", "fast"],
)
def test_what_a_device_can_measure_is_stored(services, intake, down, record):
    intake.take([message("m", record)])
    assert services.messages.counts()["metrics"] == 1
    assert down.acks[-1][1] == wire.Ack("b", 1)


def test_a_gap_replaces_what_lies_below_itself_and_not_the_ages(intake, down):
    intake.take([message("ev", gap(1, 999), seq=999)])
    assert down.acks[-1][1] == wire.Ack("b", 999)
    intake.take([message("ev", gap(1000, 2000 + MAX_GAP), seq=2000 + MAX_GAP)])
    assert "at most" in down.acks[-1][1].refused[0]
    intake.take([message("ev", gap(1000, 2000), seq=MAX_NUMBER)])
    assert down.acks[-1][1].boot == ""
    assert "batch" in down.acks[-1][1].refused[0]


def test_a_state_that_cannot_be_read_is_told_too(intake, down):
    intake.take([Message(wire.up("d", "reported"), b"{}", NOW_MS)])
    ((device, ack),) = down.acks
    assert (device, ack.boot) == ("d", "")
    assert "missing required field" in ack.refused[0]


def test_a_stranger_is_told_nothing(intake, down):
    intake.take([message("m", report(), device="stranger")])
    assert down.acks == []


def test_the_fleet_says_how_far_behind_it_is(intake, down, clock):
    """Of messages, on every acknowledgement: a device that connects learns it before it sends."""
    clock[0] = NOW_MS + 45_000
    intake.take([message("m", report())])
    birth = wire.Birth(online=True, boot="b", conn=1)
    intake.take([Message(wire.up("other", "state"), wire.encode(birth), NOW_MS + 44_000)])
    assert [ack.delay_ms for _, ack in down.acks] == [45_000, 45_000]


def test_a_flood_of_one_device_costs_only_its_own_messages(services, intake, down, clock):
    flood = [message("m", report(), seq=1 + number) for number in range(BURST_MESSAGES + 100)]
    intake.take([*flood, message("m", report(), device="other")])
    assert intake.counters["over_quota"] == 100
    assert services.messages.watermark("d", "b") == BURST_MESSAGES
    assert services.messages.watermark("other", "b") == 1
    assert any("over quota" in reason for device, ack in down.acks if device == "d" for reason in ack.refused)
    assert [(a.reason, a.count) for a in services.messages.turned_away("d")] == [("over quota", 100)]
    clock[0] += int(1000 * 100 / MESSAGES_PER_S)
    intake.take(flood[BURST_MESSAGES:])  # later, as the device sends again
    assert services.messages.watermark("d", "b") == BURST_MESSAGES + 100


def test_a_clock_that_was_ahead_when_the_broker_started_hides_no_device(services, intake, clock):
    """Set right afterwards: every device that connected was "offline" until the next restart."""
    intake.present_since_ms = clock[0] + 1000
    topic, body = wire.up("d", "state"), wire.encode(wire.Birth(online=True, boot="b", conn=1))
    intake.take([Message(topic, body, clock[0])])
    assert services.devices.get("d").online
    clock[0] += 2000
    intake.take([Message(wire.up("other", "state"), body, NOW_MS)])  # of before the broker's start
    assert not services.devices.get("other").online


def test_a_flood_in_a_strangers_name_leaves_no_row(services, intake):
    intake.take([message("m", report(), seq=1 + n, device="nobody") for n in range(BURST_MESSAGES + 1)])
    assert intake.counters["over_quota"] == 1
    assert services.messages.turned_away("nobody") == []


def test_bytes_are_counted_too():
    quota = Quota()
    assert quota.allows("d", BURST_BYTES, 0)
    assert not quota.allows("d", 1 << 20, 100)
    assert quota.allows("other", 1 << 20, 100)
    assert quota.allows("d", 1 << 20, 1000)


def test_one_devices_word_does_not_become_the_fleets(services, intake, down):
    """2^62 frames in 1e-300 s once were the fleet's frames a second."""
    intake.take(
        [message("m", report(frames=1 << 62, period_s=1e-300)), message("m", report(), device="other")]
    )
    with services.database.read() as sql:
        assert isinstance(sql, sqlite3.Connection)
        rows = sql.execute("SELECT frames, period_s FROM metric").fetchall()
    assert [tuple(row) for row in rows] == [(150, 10.0)]
