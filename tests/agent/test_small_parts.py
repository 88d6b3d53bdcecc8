"""Restarts, the command desk, the way out, books, children: claims of each by itself."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.children import MeasureTask, MeasuringChild, install, survey
from edgekit.agent.config import OutboxTable, worker_environment
from edgekit.agent.ipc import LedgerEntry, LedgerOut, Progress, Running, Stop
from edgekit.agent.jobs import MAX_JOBS, Jobs
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts, Verdict
from edgekit.agent.supervisor.commands import REMEMBERED, CommandDesk, text_argument
from edgekit.agent.supervisor.egress import ALERT_EVERY_S, MAX_ALERT_KEYS, Egress
from edgekit.agent.supervisor.fleet import load_enrolment
from edgekit.agent.supervisor.metrics import Totals
from edgekit.agent.supervisor.prepare import prepare
from edgekit.agent.supervisor.worker_process import WorkerProcess, pss_mb, rss_mb
from edgekit.core.errors import (
    BackendError,
    BundleError,
    ConfigError,
    LinkError,
    UsageError,
)
from edgekit.core.sketch import Histogram
from edgekit.core.spec import Guards
from edgekit.core.wire import Alert, Command, EventRecord, decode_record
from edgekit.sync.outbox import Cursor
from edgekit.update.guards import judge
from edgekit.update.slots import Slots


@dataclass
class HandClock:
    """A clock that a test sets."""

    s: float = 1_000.0

    def monotonic_ns(self):
        return int(self.s * 1e9)

    def unix_ms(self):
        return int(self.s * 1e3)


# -- restarts


@given(st.lists(st.floats(0, 50), max_size=30), st.integers(1, 6))
def test_a_worker_is_given_up_exactly_where_so_many_crashes_lie_in_one_window(gaps, limit):
    restarts = Restarts(limit=limit, window_s=60, backoff_s=0.5, backoff_max_s=8)
    times = []
    now_s = 0.0
    for gap_s in gaps:
        now_s += gap_s
        times.append(now_s)
        within = [t for t in times if now_s - t <= 60]
        verdict = restarts.crashed(now_s)
        assert (verdict is Verdict.GIVE_UP) == (len(within) >= limit)
        assert 0.5 <= restarts.delay_s <= 8
    assert restarts.total == len(gaps)


def test_another_version_begins_without_the_crashes_of_the_last_and_the_total_stays():
    restarts = Restarts(limit=2, window_s=60, backoff_s=1, backoff_max_s=8)
    assert restarts.crashed(0) is Verdict.RESTART
    restarts.forget()
    assert restarts.delay_s == 0.0
    assert restarts.crashed(1) is Verdict.RESTART
    assert restarts.total == 2


# -- commands


class Desk:
    def __init__(self, path, clock):
        self.done, self.answers = [], []
        self.desk = CommandDesk(path, {"report": self._report}, self.answers.append, clock)

    def _report(self, args):
        self.done.append(args)
        return "x" * 5000

    def take(self, number, expires_s=2_000.0):
        self.desk.take(Command(id=number, kind="report", expires_unix_ms=int(expires_s * 1000)))


def test_a_command_is_in_time_up_to_the_very_millisecond(tmp_path):
    clock = HandClock(1_000.0)
    desk = Desk(tmp_path / "c.json", clock)
    desk.take("1", expires_s=1_000.0)
    clock.s = 1_000.001
    desk.take("2", expires_s=1_000.0)
    assert [(answer.id, answer.ok) for answer in desk.answers] == [("1", True), ("2", False)]
    assert len(desk.answers[0].message) == 1000
    assert (desk.answers[1].unix_ms, desk.answers[1].mono_ns) == (1_000_001, 1_000_001_000_000)


def test_an_expired_command_is_done_when_it_is_sent_anew_with_more_time(tmp_path):
    desk = Desk(tmp_path / "c.json", HandClock())
    desk.take("1", expires_s=1.0)
    desk.take("1")
    assert [answer.ok for answer in desk.answers] == [False, True]


def test_a_command_that_ends_the_process_is_not_done_again_after_the_restart(tmp_path):
    def fatal(_):
        raise KeyboardInterrupt

    path, answers = tmp_path / "c.json", []
    command = Command(id="1", kind="report", expires_unix_ms=1 << 50)
    desk = CommandDesk(path, {"report": fatal}, answers.append, HandClock())
    with pytest.raises(KeyboardInterrupt):
        desk.take(command)
    again = CommandDesk(path, {"report": fatal}, answers.append, HandClock())
    again.take(command)
    assert [(answer.ok, answer.message) for answer in answers] == [(True, "done before")]


def test_a_command_of_a_later_fleet_is_refused_and_done_once_the_agent_has_it(tmp_path):
    path, answers = tmp_path / "c.json", []
    command = Command(id="1", kind="polish", expires_unix_ms=1 << 50)
    for actions in ({}, {"polish": lambda _: "polished"}):
        CommandDesk(path, actions, answers.append, HandClock()).take(command)
    assert [answer.ok for answer in answers] == [False, True]
    assert "has no command 'polish': update the agent" in answers[0].message


def test_what_is_remembered_is_bounded_and_the_newest_stay(tmp_path):
    desk = Desk(tmp_path / "c.json", HandClock())
    for number in range(REMEMBERED + 5):
        desk.take(str(number))
    kept = json.loads((tmp_path / "c.json").read_text())
    assert kept == [str(number) for number in range(5, REMEMBERED + 5)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_memory_of_commands_costs_the_memory_and_not_the_agent(tmp_path, damage, caplog):
    (tmp_path / "c.json").write_bytes(damage)
    desk = Desk(tmp_path / "c.json", HandClock())
    assert "commands may be executed again" in caplog.text
    desk.take("1")
    assert desk.answers[0].ok


def test_a_disk_that_takes_no_note_does_not_stop_a_command(tmp_path, caplog):
    desk = Desk(tmp_path / "absent" / "c.json", HandClock())
    (tmp_path / "absent").write_text("a file where the folder should be")
    desk.take("1")
    desk.take("1")
    assert len(desk.done) == 1
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("value", [5, None, ["a"]])
def test_an_argument_that_is_no_text_is_refused_by_name(value):
    assert text_argument({"model": "m"}, "model") == "m"
    assert text_argument({}, "model") == ""
    with pytest.raises(UsageError, match="'model': want text"):
        text_argument({"model": value}, "model")


# -- the way out


class Way:
    """The way out of a device, and what waits in it."""

    def __init__(self, folder, *plans):
        self.clock = HandClock()
        self.egress = Egress(folder, plans, OutboxTable(max_rows=50), self.clock)

    def waiting(self):
        self.egress.outbox.flush()
        parcels = self.egress.outbox.batches(Cursor(0, 0), 1000)
        return [decode_record(bytes(item)) for parcel in parcels for item in parcel.batch.items]

    def alerts(self):
        return [(r.code, r.pipeline, r.message) for r in self.waiting() if isinstance(r, Alert)]


@pytest.fixture
def way(tmp_path):
    made = Way(tmp_path)
    yield made
    made.egress.close()


def test_the_same_alert_within_a_minute_is_counted_and_told_with_the_next(way):
    for _ in range(3):
        way.egress.alert("error", "c", "it broke", "motor")
    way.clock.s += ALERT_EVERY_S
    way.egress.alert("error", "c", "it broke again", "motor")
    assert way.alerts() == [("c", "motor", "it broke"), ("c", "motor", "it broke again (and 2 more since)")]


def test_other_codes_and_pipelines_do_not_wait_for_one_another(way):
    for code, name in (("a", "one"), ("a", "two"), ("b", "one"), ("a", "one")):
        way.egress.alert("warning", code, "m", name)
    assert [row[:2] for row in way.alerts()] == [("a", "one"), ("a", "two"), ("b", "one")]


def test_a_flood_of_alerts_of_different_codes_does_not_grow_without_end(way):
    for number in range(3 * MAX_ALERT_KEYS):
        way.egress.alert("warning", f"code-{number}", "m")
    assert len(way.waiting()) <= 50 + 1


def test_an_alert_is_cut_to_what_a_message_may_hold(way):
    way.egress.alert("error", "c", "x" * 5000)
    assert len(way.alerts()[0][2]) == 1000


def event():
    return EventRecord(
        mono_ns=1, unix_ms=1, pipeline="motor", kind="appear", model="m", version="1", label="face"
    )


def test_an_event_of_a_pipeline_that_nobody_let_out_stays_and_is_in_the_ledger(way):
    way.egress.put(event(), "a pipeline that is not configured")
    assert [record for record in way.waiting() if isinstance(record, EventRecord)] == []
    rows = way.egress.ledger.entries()
    assert {row.decision for row in rows} == {"refused"}


def test_what_a_worker_sent_by_its_own_brokers_is_in_the_ledger_of_its_pipeline(way):
    entry = LedgerEntry(data_class="labels", destination="h:1883", decision="passed", bytes=40, count=3)
    way.egress.left("motor", LedgerOut(pipeline="motor", entries=(entry,)))
    (row,) = way.egress.ledger.entries()
    assert (row.pipeline, row.destination, row.bytes, row.count) == ("motor", "h:1883", 40, 3)


# -- books


def running(**changes):
    names = {"model": "m", "version": "1", "variant": "v", "backend": "null", "accelerator": "cpu"}
    return Running(**names | changes)


def test_a_trial_of_several_pipelines_is_judged_by_all_their_frames():
    total = Totals()
    for frames, errors in ((10, 1), (20, 0), (0, 4)):
        sketch = Histogram()
        sketch.add(5.0, frames)
        wire = sketch.to_wire() if frames else None
        total.add(
            Progress(
                pipeline="p",
                period_s=1,
                frames=frames,
                errors=errors,
                items=frames,
                infer_ms=wire,
                running=running(),
            )
        )
    stats = total.trial_stats(crashes=2)
    assert (stats.frames, stats.errors, stats.predictions, stats.crashes) == (35, 5, 30, 2)
    assert Histogram.from_wire(stats.infer_ms).count == 30
    assert Totals().trial_stats().infer_ms is None


def seconds_of(*p99s_ms):
    total = Totals()
    for ms in p99s_ms:
        times = Histogram()
        times.add(ms, 10)
        total.add(
            Progress(
                pipeline="p", period_s=1, frames=10, items=10, infer_ms=times.to_wire(), running=running()
            )
        )
    return total.trial_stats()


def test_a_hiccup_of_one_second_condemns_no_version_and_two_do():
    """The slowest second is left out: a version that is slow is slow in a second one too."""
    before, guards = seconds_of(*[10.0] * 10), Guards(p99_ratio=2.0)
    assert seconds_of(400.0).steady_ms is None
    assert judge(seconds_of(*[10.0] * 9, 400.0), before, guards, 10.0, 10.0).action == "commit"
    slow = judge(seconds_of(*[10.0] * 8, 400.0, 400.0), before, guards, 10.0, 10.0)
    assert (slow.action, "p99_ratio" in slow.reason) == ("roll_back", True)


# -- jobs


def test_a_job_that_fails_tells_its_error_and_the_next_is_done():
    reactor, told = Reactor(), []
    jobs = Jobs(reactor.post)

    def fail():
        raise BundleError("no")

    jobs.submit(fail, told.append)
    jobs.submit(lambda: 5, told.append)
    assert (jobs.is_busy, jobs.has_more) == (True, True)
    jobs.start()
    while len(told) < 2:
        reactor.turn(0.2)
    assert (str(told[0]), told[1], jobs.is_busy) == ("no", 5, False)
    jobs.stop()
    reactor.close()


def test_jobs_beyond_the_bound_are_refused_at_once_and_those_before_are_kept():
    told = []
    jobs = Jobs(lambda work: work())
    for number in range(MAX_JOBS + 1):
        jobs.submit(lambda number=number: number, told.append)
    assert [type(error) for error in told] == [LinkError]
    finished = threading.Event()
    jobs.start()
    while len(told) < MAX_JOBS + 1:
        finished.wait(0.01)
    assert told[1:] == list(range(MAX_JOBS))
    jobs.stop()


# -- children


def test_a_child_tells_its_error_with_the_class_it_had(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    (bundle / "labels.txt").write_text("changed\n")
    with pytest.raises(BundleError) as caught:
        install(tmp_path / "state", "motion", bundle, worker_environment(tmp_path))
    assert caught.value.reasons == ("labels.txt: 8 bytes, the manifest says 13",)
    assert Slots(tmp_path / "state").load("motion").active is None


def test_a_bundle_of_another_model_is_not_installed_under_this_name(tmp_path):
    bundle = make_bundle(tmp_path / "b", model="sound")
    with pytest.raises(BundleError, match="sound"):
        install(tmp_path / "state", "motion", bundle, worker_environment(tmp_path))


def test_a_child_that_cannot_begin_is_an_error_and_not_a_wait(tmp_path):
    environment = dict(worker_environment(tmp_path)) | {
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
    }
    with pytest.raises(BackendError, match="survey"):
        survey(environment)


def test_a_measurement_that_is_ended_from_outside_says_so_and_may_be_ended_twice(tmp_path):
    child = MeasuringChild(
        MeasureTask(bundle=str(make_bundle(tmp_path / "b")), sha256="0", job="j"),
        worker_environment(tmp_path),
    )
    child.kill()
    child.kill()
    with pytest.raises(BackendError, match="measuring .*SIGKILL"):
        child.run(60)


def test_prepare_ends_with_the_reason_where_the_machine_cannot_be_known(tmp_path, monkeypatch):
    (tmp_path / "box.toml").write_text("id = ")
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path))
    way = Way(tmp_path / "state")
    with pytest.raises(ConfigError) as caught:
        prepare((), Slots(tmp_path / "state"), way.egress, dict(os.environ))
    assert "box.toml" in caught.value.reasons[0]
    way.egress.close()


# -- worker processes


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_worker_that_cannot_be_started_leaves_no_descriptor(tmp_path):
    before = open_descriptors()
    with pytest.raises(OSError, match="absent"):
        WorkerProcess({}, 0.0, command=[str(tmp_path / "absent")])
    assert open_descriptors() == before


def test_a_process_that_ignores_stop_is_overdue_at_its_deadline_and_killed_when_collected(tmp_path):
    process = WorkerProcess(dict(os.environ), 0.0, command=["/bin/sh", "-c", "exec sleep 1000"])
    assert not process.is_stopping
    process.stop(deadline_s=10.0)
    assert (process.is_stopping, process.is_overdue(9.9), process.is_overdue(10.0)) == (True, False, True)
    assert process.reap(wait_s=0.05) == -9
    assert not process.send(Stop()), "a message to a worker that is gone is no error"


def test_the_memory_of_a_process_is_read_and_of_none_is_0():
    assert rss_mb(os.getpid()) > 5
    assert 5 < pss_mb(os.getpid()) < rss_mb(os.getpid()) + 1
    assert rss_mb(1 << 30) == pss_mb(1 << 30) == 0.0


# -- the enrolment


def test_a_device_without_an_enrolment_is_told_from_one_with_a_damaged_one(tmp_path):
    assert load_enrolment(tmp_path) is None
    path = tmp_path / "identity" / "enrolment.json"
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode({"device": 5}))
    with pytest.raises(ConfigError, match=r"enrolment\.json"):
        load_enrolment(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_enrolment(tmp_path)
