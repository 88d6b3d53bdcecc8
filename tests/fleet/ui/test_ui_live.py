"""The stream of changes, and what is kept in memory for lists; without HTTP."""

import asyncio
import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.sketch import Histogram
from edgekit_fleet.ui.guard import local_path
from edgekit_fleet.ui.live import EVERY, MAX_IDS, note, stream
from edgekit_fleet.ui.recent import FRESH_MS, Pace, Recent
from edgekit_fleet.web.bus import Bus, Change


def gathered(*changes):
    found = {}
    for change in changes:
        note(found, change)
    return found


def test_metric_reports_and_events_are_topics_of_their_own():
    found = gathered(
        Change("event", {"device": "a", "metric": 1, "alert": 1}),
        Change("event", {"device": "b", "metric": 3}),
        Change("device", {"device": "a", "online": True}),
        Change("rollout", {"id": "r-1", "model": "m"}),
        Change("bundle", {"model": "m", "version": "1.0.0"}),
    )
    assert found == {
        "metric": {"a", "b"},
        "event": {"a"},
        "device": {"a"},
        "rollout": {"r-1"},
        "bundle": {"m"},
    }


def test_more_changes_than_a_message_holds_become_every():
    found = gathered(*(Change("device", {"device": f"d{n}"}) for n in range(MAX_IDS + 5)))
    assert found == {"device": {EVERY}}


def test_changes_of_a_moment_are_told_together_and_the_stream_ends_with_the_bus():
    async def watch():
        bus = Bus()
        told = []
        chunks = stream(bus, pause_s=0.05)
        told.append(await anext(chunks))
        waiting = asyncio.ensure_future(anext(chunks))
        for name in ("a", "b", "a"):
            bus.publish("device", {"device": name})
        told.append(await waiting)
        bus.close()
        return [*told, *[chunk async for chunk in chunks]]

    first, second, *_ = asyncio.run(asyncio.wait_for(watch(), 60))
    assert first.startswith(b"retry:")
    assert json.loads(second.removeprefix(b"data: ")) == {"device": ["a", "b"]}


def test_the_bus_is_watched_before_the_first_bytes_leave():
    """A page that has them asks for what it shows; what changes from then on it must hear."""

    async def watch():
        bus = Bus()
        chunks = stream(bus)
        await anext(chunks)
        watchers = bus.watchers
        await chunks.aclose()
        return watchers

    assert asyncio.run(watch()) == 1


def test_a_stream_does_not_outlive_its_time():
    async def watch():
        bus = Bus()
        bus_task = asyncio.create_task(_chatter(bus))
        chunks = [chunk async for chunk in stream(bus, pause_s=0.01, life_s=0.1)]
        bus_task.cancel()
        await until(lambda: not bus.watchers)  # and leaves nobody behind
        return chunks

    assert len(asyncio.run(asyncio.wait_for(watch(), 60))) >= 2


async def until(claim):
    while not claim():  # noqa: ASYNC110 - the bus tells nobody who watches it
        await asyncio.sleep(0)


async def _chatter(bus):
    while True:
        bus.publish("device", {"device": "a"})
        await asyncio.sleep(0.01)


def report(infer_ms, frames=100):
    histogram = Histogram()
    histogram.add(infer_ms, 100)
    return wire.MetricReport(
        mono_ns=1,
        unix_ms=1,
        pipeline="gate",
        model="m",
        version="1.0.0",
        variant="v",
        period_s=10.0,
        frames=frames,
        infer_ms=histogram.to_wire(),
    )


def test_the_fleets_percentile_is_that_of_all_frames_not_of_averages():
    recent = Recent(lambda: 0)
    for number in range(19):
        recent.take_records(f"fast-{number}", [report(2.0)])
    assert (round(recent.everyone().fps), round(recent.everyone().p95_ms)) == (190, 2)
    slower = Recent(lambda: 0)
    for number in range(18):
        slower.take_records(f"fast-{number}", [report(2.0)])
    slower.take_records("slow", [report(50.0)])
    assert 49 < slower.everyone().p95_ms < 51
    assert 49 < slower.pace("slow").p95_ms < 51
    assert slower.ranked("p95")[-1] == "slow"


def test_what_was_not_reported_for_a_minute_counts_no_more():
    clock = [0]
    recent = Recent(lambda: clock[0])
    recent.take_records("a", [report(2.0)])
    clock[0] = FRESH_MS + 1
    assert recent.pace("a").fps == 0
    assert recent.ranked("fps") == []
    clock[0] += FRESH_MS
    assert recent.everyone() == Pace()


def test_a_pipeline_that_is_gone_from_the_report_counts_no_more():
    recent = Recent(lambda: 0)
    recent.take_records("a", [report(2.0)])
    recent.take_reported("a", wire.Reported(boot="b", version=1, desired=0))
    assert recent.pace("a").fps == 0
    assert recent.everyone().fps == 0


def test_the_frames_of_a_later_stage_are_not_counted_beside_its_pipelines():
    recent = Recent(lambda: 0)
    recent.take_records("a", [report(2.0)])
    recent.take_records("a", [msgspec.structs.replace(report(2.0), pipeline="p/tint")])
    assert round(recent.everyone().fps) == round(recent.pace("a").fps) == 10


def test_only_the_newest_report_of_a_pipeline_counts():
    clock = [0]
    recent = Recent(lambda: clock[0])
    for clock[0] in (0, 1000, 30_000):
        recent.take_records("a", [report(2.0)])
        recent.take_records("b", [report(2.0)])
    assert recent.everyone().fps == 20


def test_an_order_by_pace_holds_all_that_report_and_a_condition_names_its_devices():
    recent = Recent(lambda: 0)
    for name, ms in (("slow", 50.0), ("fast", 2.0), ("middle", 10.0)):
        recent.take_records(name, [report(ms)])
    assert recent.ranked("p95") == ["fast", "middle", "slow"]
    failed = wire.Reported("b", 1, 0, pipelines={"gate": wire.PipelineState("failed")})
    recent.take_reported("slow", failed)
    assert recent.conditions() == {"failed": ["slow"], "updating": []}
    recent.take_reported("slow", wire.Reported("b", 2, 0))
    assert recent.conditions() == {"failed": [], "updating": []}


@given(st.text() | st.from_regex(r"[/\\]{0,3}[a-z:/\\.]{0,20}", fullmatch=True))
def test_no_text_sends_a_browser_to_another_site(text):
    found = local_path(text)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
    assert "\n" not in found
    assert "\t" not in found
