"""Each durable message is stored once; nothing a device sends stops the watermark or the store."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.sketch import Histogram
from edgekit_fleet.store import messages as store
from edgekit_fleet.store.arrivals import Arrived, Refused
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.metrics import Metrics
from edgekit_fleet.store.rows import captured_ms

NOW_MS = 1_790_000_000_000


@pytest.fixture
def database():
    found = Database(":memory:")
    yield found
    found.close()


@pytest.fixture
def messages(database):
    return Messages(database)


def alert(number, unix_ms=NOW_MS):
    return wire.Alert(mono_ns=0, unix_ms=unix_ms, level="info", code="test", message=str(number))


def metric(**changes):
    histogram = Histogram()
    for value in changes.pop("infer", [1.0, 2.0, 3.0]):
        histogram.add(value)
    fields = {
        "mono_ns": 0,
        "unix_ms": NOW_MS,
        "pipeline": "door",
        "model": "m",
        "version": "1.0.0",
        "variant": "v",
        "period_s": 10.0,
        "frames": 100,
        "infer_ms": histogram.to_wire(),
        **changes,
    }
    return wire.MetricReport(**fields)


def arrived(seq0, *records, boot="b", at_ms=NOW_MS, device="d", **more):
    return Arrived(
        device=device,
        boot=boot,
        seq0=seq0,
        count=len(records),
        records=[(seq0 + i, one) for i, one in enumerate(records)],
        refused=(),
        arrived_ms=at_ms,
        **more,
    )


def texts(database):
    return [one.body["message"] for one in Metrics(database).events(kinds=["alert"])][::-1]


def test_a_batch_that_arrives_again_is_stored_once(database, messages):
    batch = arrived(1, alert(1), alert(2))
    first = messages.commit([batch])[0]
    second = messages.commit([batch, batch])[0]
    assert (first.watermark, len(first.records)) == (2, 2)
    assert (second.watermark, second.records) == (2, [])
    assert messages.refused() == []
    assert texts(database) == ["1", "2"]


def test_overlapping_batches_are_stored_once(database, messages):
    messages.commit([arrived(1, alert(1), alert(2))])
    found = messages.commit([arrived(2, alert(2), alert(3))])[0]
    assert [one.message for one in found.records] == ["3"]
    assert texts(database) == ["1", "2", "3"]


def test_the_watermark_waits_for_a_hole(messages):
    assert messages.commit([arrived(3, alert(3))])[0].watermark == 0
    assert messages.commit([arrived(1, alert(1))])[0].watermark == 1
    assert messages.commit([arrived(2, alert(2))])[0].watermark == 3
    assert messages.watermark("d", "b") == 3


def test_a_gap_lets_the_watermark_pass(messages):
    gap = wire.Gap(mono_ns=0, unix_ms=NOW_MS, first=1, last=40)
    assert messages.commit([arrived(41, gap)])[0].watermark == 41


@pytest.mark.parametrize(("first", "last"), [(-5, 3), (9, 2), (1, 1 << 63)])
def test_an_impossible_gap_moves_nothing(messages, first, last):
    gap = wire.Gap(mono_ns=0, unix_ms=NOW_MS, first=first, last=last)
    assert messages.commit([arrived(5, gap)])[0].watermark == 0


def test_outboxes_are_apart(messages):
    found = messages.commit(
        [arrived(1, alert(1)), arrived(1, alert(1), boot="c"), arrived(1, alert(1), device="e")]
    )
    assert [(one.device, one.boot, len(one.records)) for one in found] == [
        ("d", "b", 1),
        ("d", "c", 1),
        ("e", "b", 1),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        metric(frames=-1),
        metric(frames=1 << 63),
        metric(period_s=math.inf),
        metric(period_s=math.nan),
        metric(infer_ms=wire.Sketch(5, 0, 1 << 40, [1], 1.0, 1.0, 1.0)),
        metric(infer_ms=wire.Sketch(5, 0, 0, [-1], 1.0, 1.0, 1.0)),
        metric(infer_ms=wire.Sketch(5, 0, 0, [1], math.nan, 1.0, 1.0)),
    ],
)
def test_a_record_that_cannot_be_stored_is_set_aside_and_passed(database, messages, bad):
    found = messages.commit([arrived(1, alert(1), bad, alert(3))])[0]
    assert found.watermark == 3
    assert texts(database) == ["1", "3"]
    assert len(messages.refused()) == 1


def test_a_record_whose_row_is_taken_is_set_aside_alone(database, messages):
    messages.commit([arrived(1, alert(1))])
    with database.transaction() as sql:
        sql.execute("UPDATE event SET seq = 3")
    found = messages.commit([arrived(2, alert(2), alert(3), alert(4))])[0]
    assert [one.message for one in found.records] == ["2", "4"]
    assert found.watermark == 4
    assert texts(database) == ["1", "2", "4"]
    assert len(messages.refused()) == 1


def test_outboxes_whose_names_differ_after_a_zero_character_are_apart(messages):
    """SQLite's JSON functions end a text there."""
    pair = [arrived(1, alert(1), boot="b"), arrived(1, alert(1), boot="b\0c")]
    assert [len(one.records) for one in messages.commit(pair)] == [1, 1]
    assert [len(one.records) for one in messages.commit(pair)] == [0, 0]
    assert messages.watermarks("d") == {"b": 1, "b\0c": 1}


def test_too_many_holes_are_refused_and_fill_in_order(messages, monkeypatch):
    monkeypatch.setattr(store, "MAX_RANGES", 3)
    for seq in (3, 5, 7, 9):
        messages.commit([arrived(seq, alert(seq))])
    assert messages.commit([arrived(9, alert(9))])[0].records == []
    assert messages.commit([arrived(1, *[alert(n) for n in range(1, 10)])])[0].watermark == 9


def test_a_device_that_starts_outbox_after_outbox_is_bounded(database, messages, monkeypatch):
    monkeypatch.setattr(store, "MAX_BOOTS", 5)
    for number in range(20):
        messages.commit([arrived(1, alert(1), boot=f"b{number}", at_ms=NOW_MS + number)])
    with database.read() as sql:
        kept = [row["boot"] for row in sql.execute("SELECT boot FROM outbox ORDER BY id")]
    assert kept == [f"b{number}" for number in range(15, 20)]


def test_what_is_set_aside_is_bounded(messages, monkeypatch):
    monkeypatch.setattr(store, "MAX_REFUSED", 10)
    messages.set_aside([Refused("d", "t", NOW_MS, str(number), b"x" * 100_000) for number in range(30)])
    kept = messages.refused(limit=100)
    assert [one.reason for one in kept] == [str(number) for number in range(29, 19, -1)]
    assert len(kept[0].body) == store.MAX_REFUSED_BYTES


def test_old_rows_go_by_their_arrival_not_by_the_devices_clock(database, messages):
    messages.commit([arrived(1, alert("old"), at_ms=NOW_MS - 1000), arrived(2, alert("1970", unix_ms=0))])
    assert messages.trim(NOW_MS, max_rows=100) == 1
    assert texts(database) == ["1970"]


def test_the_oldest_rows_go_when_there_are_too_many(database, messages):
    messages.commit([arrived(1, *[alert(number) for number in range(10)])])
    assert messages.trim(0, max_rows=4, chunk=3) == 3
    while messages.trim(0, max_rows=4, chunk=3):
        pass
    assert texts(database) == ["6", "7", "8", "9"]
    assert messages.counts()["events"] == 4


HOUR_NS = 3600 * 10**9


def sent(mono_ns, unix_ms):
    return arrived(1, alert(1), sent_mono_ns=mono_ns, sent_unix_ms=unix_ms)


def test_the_age_on_the_monotonic_clock_counts_when_the_wall_clock_was_set():
    assert captured_ms(1000, 0, sent(HOUR_NS, NOW_MS)) == NOW_MS - 3_600_000


def test_a_wrong_but_steady_wall_clock_does_no_harm():
    assert captured_ms(5_000, 0, sent(HOUR_NS, 3_605_000)) == NOW_MS - 3_600_000


def test_the_age_on_the_wall_clock_counts_across_a_restart():
    assert captured_ms(NOW_MS - 7_200_000, HOUR_NS, sent(60 * 10**9, NOW_MS)) == NOW_MS - 7_200_000
    assert captured_ms(NOW_MS - 7_200_000, 10**9, sent(60 * 10**9, NOW_MS)) == NOW_MS - 7_200_000


@given(*[st.integers(-(1 << 63), 1 << 63)] * 4)
def test_a_time_is_never_in_the_future(unix_ms, mono_ns, sent_mono_ns, sent_unix_ms):
    assert 0 <= captured_ms(unix_ms, mono_ns, sent(sent_mono_ns, sent_unix_ms)) <= NOW_MS


def test_quantiles_of_a_chart_are_those_of_all_frames(database, messages):
    slow, fast = [100.0] * 20, [1.0] * 980
    messages.commit([arrived(1, metric(infer=slow), metric(infer=fast))])
    metrics = Metrics(database)
    (point,) = metrics.series("d", since_ms=NOW_MS - 1000, until_ms=NOW_MS + 1, step_ms=60_000)
    assert point.infer_p50_ms == pytest.approx(1.0, rel=0.02)
    assert point.infer_p99_ms == pytest.approx(100.0, rel=0.02)
    assert point.fps == pytest.approx(10.0)


def test_the_rates_of_pipelines_side_by_side_add_up(database, messages):
    one, two = metric(frames=40, period_s=10.0), metric(frames=20, period_s=10.0, pipeline="other")
    messages.commit([arrived(1, one, one, two, two)])
    (point,) = Metrics(database).series("d", since_ms=NOW_MS - 1000, until_ms=NOW_MS + 1, step_ms=60_000)
    assert point.fps == pytest.approx(4 + 2)


def test_a_chart_has_at_most_a_thousand_points(database, messages):
    times = range(NOW_MS - 5_000_000, NOW_MS, 2500)
    messages.commit([arrived(1, *[metric(unix_ms=at_ms) for at_ms in times])])
    points = Metrics(database).series("d", since_ms=NOW_MS - 5_000_000, until_ms=NOW_MS, step_ms=1000)
    assert 500 < len(points) <= 1001
    assert sum(point.frames for point in points) == 100 * len(times)


def test_what_a_version_did_is_summed_by_device(database, messages):
    messages.commit(
        [
            arrived(1, metric(errors=3), metric(version="2.0.0", errors=50)),
            arrived(1, metric(), metric(unix_ms=NOW_MS - 10_000), device="e"),
        ]
    )
    found = Metrics(database).measured("m", "1.0.0", since_ms=NOW_MS - 5000)
    assert {name: (one.frames, one.errors, one.infer_ms.count) for name, one in found.items()} == {
        "d": (100, 3, 3),
        "e": (100, 0, 3),
    }
    assert found["d"].error_ratio == 0.03
    assert set(Metrics(database).measured("m", "1.0.0", devices=["e"])) == {"e"}


def test_events_come_in_pages_the_newest_first(database, messages):
    messages.commit([arrived(1, *[alert(number) for number in range(5)])])
    metrics = Metrics(database)
    first = metrics.events(limit=3)
    second = metrics.events(limit=3, before=first[-1].id)
    assert [one.body["message"] for one in [*first, *second]] == ["4", "3", "2", "1", "0"]


def test_the_events_of_a_trace_are_found_by_its_id_without_reading_all_others(database, messages):
    def event(label, trace_id):
        moment = {"mono_ns": 0, "unix_ms": NOW_MS, "trace_id": trace_id}
        return wire.EventRecord(**moment, pipeline="p", model="m", version="1", kind="appear", label=label)

    others = [event("cat", f"{number:032x}") for number in range(5000)]
    messages.commit([arrived(1, event("first", "f" * 32), *others, event("last", "f" * 32), alert(1))])
    steps = []
    with database.transaction() as sql:
        sql.set_progress_handler(lambda: steps.append(1), 100)
    metrics = Metrics(database)
    newest, oldest = metrics.events(trace_id="f" * 32)
    assert [newest.body["label"], oldest.body["label"]] == ["last", "first"]
    assert metrics.events(trace_id="f" * 32, device="d", before=newest.id) == [oldest]
    assert metrics.events(trace_id="f" * 32, device="another") == []
    assert len(steps) < 10


def test_the_newest_of_several_kinds_are_found_without_reading_all_others(database, messages):
    moment = {"mono_ns": 0, "unix_ms": NOW_MS}
    events = [
        wire.EventRecord(**moment, pipeline="p", model="m", version="1", kind="appear", label="cat")
        for _ in range(5000)
    ]
    gap = wire.Gap(mono_ns=0, unix_ms=NOW_MS, first=1, last=1)
    messages.commit([arrived(1, gap, alert(1), *events, alert(2))])
    steps = []
    with database.transaction() as sql:
        sql.set_progress_handler(lambda: steps.append(1), 100)
    found = Metrics(database).events(kinds=["gap", "alert", "event", "alert"], limit=3)
    assert [one.kind for one in found] == ["alert", "event", "event"]
    rare = Metrics(database).events(kinds=["gap", "alert"], limit=3)
    assert [one.kind for one in rare] == ["alert", "alert", "gap"]
    assert len(steps) < 40
    of_device = Metrics(database).events(device="d", kinds=["gap"], before=rare[0].id)
    assert [one.kind for one in of_device] == ["gap"]


def test_after_a_restore_the_watermark_passes_what_the_device_has_thrown_away(messages, database):
    """The device deleted 3 to 9 when they were acknowledged; this database has them no more."""
    messages.commit([arrived(1, alert(1), alert(2))])
    [committed] = messages.commit([arrived(10, alert(10), alert(11), lowest=10, at_ms=NOW_MS + 5000)])
    assert (committed.watermark, committed.lost, len(committed.records)) == (11, 7, 2)
    [gap] = Metrics(database).events(kinds=["gap"])
    assert (gap.body["first"], gap.body["last"], gap.at_ms) == (3, 9, NOW_MS + 5000)
    assert gap.body["reason"].startswith(store.RESTORED)
    assert "2026-09-21 14:13:20 UTC" in gap.body["reason"]


def test_a_hole_is_recorded_once_and_only_where_something_is_missing(messages, database):
    messages.commit([arrived(1, alert(1)), arrived(4, alert(4))])
    again = [messages.commit([arrived(7, alert(7), lowest=6)])[0] for _ in range(2)]
    assert [(one.watermark, one.lost) for one in again] == [(5, 3), (5, 0)]
    assert messages.commit([arrived(6, alert(6), lowest=6)])[0].watermark == 7
    gaps = Metrics(database).events(kinds=["gap"])
    assert sorted((gap.body["first"], gap.body["last"]) for gap in gaps) == [(2, 3), (5, 5)]


def test_a_device_that_does_not_say_what_it_still_has_is_waited_for(messages):
    messages.commit([arrived(1, alert(1))])
    assert messages.commit([arrived(9, alert(9))])[0].watermark == 1


def test_nothing_is_written_off_that_the_same_batch_or_a_later_one_brings(messages):
    """A batch that claims a lowest number above its own first is believed only up to its own first."""
    [committed] = messages.commit([arrived(1, alert(1), alert(2), lowest=100)])
    assert (committed.watermark, committed.lost) == (2, 0)
