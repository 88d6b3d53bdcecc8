"""A device's measurement job: begun when nothing speaks against it, and always brought to an end."""

from __future__ import annotations

import threading
import time

import msgspec
import pytest

from edgekit.agent.measuring.order import hindrance, parse_order
from edgekit.agent.measuring.runs import MAX_FETCHES, MAX_STARTS, PATIENCE, Measuring
from edgekit.agent.reactor import Reactor
from edgekit.core import wire
from edgekit.core.errors import BackendError, LinkError, SignatureError, StorageError, UsageError
from edgekit.core.spec import parse_manifest
from edgekit.core.wire import PipelineState
from edgekit.update.contract import UpdaterResult

SHA = "ab" * 32


class Clock:
    """Times in hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def unix_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_ns(self) -> int:
        return int(self.now_s * 1e9)


class Host:
    """A supervisor by script: what hinders, what a fetch brings, and what was told."""

    def __init__(self, area) -> None:
        self.area = area
        self.why, self.updating, self.fetches, self.told = "", False, [], []
        self.outcomes = []

    def hindrance(self):
        return self.why

    def is_updating(self):
        return self.updating

    def take_reports(self):
        return 0

    def tell(self, record):
        self.told.append(record)

    def fetch_to_measure(self, order, area, max_bytes, timeout_s, done):
        assert area == self.area
        self.fetches.append((order, max_bytes, timeout_s))
        outcome = self.outcomes.pop(0) if self.outcomes else UpdaterResult(rejected={"b": "no room"})
        if isinstance(outcome, UpdaterResult):
            _bundle_into(area, order)
        done(outcome)


def _bundle_into(area, order):
    """Put what the updater would bring below the area."""
    blobs = area / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / order.sha256).write_bytes(
        b'{"format":1,"model":"motion","version":"2.0.0","task":"raw","inputs":[],"outputs":[],'
        b'"variants":[{"id":"a","backend":"null"}]}'
    )


class Child:
    """A process that ends when it is told to, or killed."""

    def __init__(self, task) -> None:
        self.task, self.outcome, self.ended = task, None, threading.Event()

    def run(self, _timeout_s):
        assert self.ended.wait(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def end(self, outcome):
        self.outcome = outcome
        self.ended.set()

    def kill(self):
        self.outcome = self.outcome or BackendError("killed")
        self.ended.set()


class Device:
    """A job's machine in a folder; ``restart`` is what a crash leaves of it."""

    def __init__(self, state) -> None:
        self.state, self.clock, self.children = state, Clock(), []
        self.host = Host(state / "measuring")
        self.reactor = None
        self.restart()

    def restart(self) -> None:
        if self.reactor is not None:
            self.measuring._jobs.stop()
            self.measuring._jobs._thread.join(60)
            self.reactor.close()
        self.reactor = Reactor(lambda: self.clock.now_s)
        self.measuring = Measuring(self.state, self.reactor, self.clock, self.host, self._begin)
        self.measuring.resume()

    def _begin(self, task):
        self.children.append(Child(task))
        return self.children[-1]

    def order(self, **more):
        return {
            "job": "m-1", "model": "motion", "version": "2.0.0", "sha256": SHA,
            "target": f"measure/motion/{SHA}/bundle.json",
            "bytes": 100, "threads": 1, "seconds": 0.5, "expires_unix_ms": 1_600_000, **more,
        }  # fmt: skip

    def tick(self, seconds=1.0):
        self.clock.now_s += seconds
        self.measuring.tick()

    def until(self, claim):
        deadline_s = time.monotonic() + 60
        while not claim():
            assert time.monotonic() < deadline_s
            self.reactor.turn(0.01)

    def states(self):
        return [(record.state, record.code) for record in self.host.told]

    def is_over(self):
        left = [self.state / "measuring", self.state / "measuring.json"]
        return self.measuring.status() == {} and not any(path.exists() for path in left)


def result(job="m-1"):
    return wire.MeasurementRecord(mono_ns=1, unix_ms=1, origin="job", job=job)


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path)
    yield made
    made.measuring.stop()
    made.measuring._jobs._thread.join(60)
    made.reactor.close()


def test_a_job_is_brought_measured_told_and_leaves_nothing(device):
    assert "motion 2.0.0" in device.measuring.take(device.order())
    device.tick()
    (child,) = device.children
    assert parse_manifest((device.state / "measuring/bundles/motion-2.0.0/bundle.json").read_bytes())
    assert (child.task.job, child.task.threads, child.task.rejected) == ("m-1", 1, {"b": "no room"})
    assert device.measuring.status()["state"] == "measuring"
    child.end(result())
    device.until(device.is_over)
    assert device.host.told == [result()]


def test_one_job_at_a_time_and_the_same_again_is_no_other(device):
    device.measuring.take(device.order())
    assert device.measuring.take(device.order()) == "m-1 is under way"
    with pytest.raises(UsageError, match="another measurement is under way: m-1"):
        device.measuring.take(device.order(job="m-2"))
    device.tick()
    assert len(device.children) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "../../etc/passwd"},
        {"target": "measure/other/x/bundle.json"},
        {"model": "../motion"},
        {"version": "latest"},
        {"seconds": 1e9},
        {"threads": -1},
        {"bytes": 1 << 40},
        {"job": ""},
        {"job": 7},
        {"expires_unix_ms": 999_999},
    ],
)
def test_what_is_no_job_is_refused_and_not_written_down(device, wrong):
    with pytest.raises(UsageError):
        device.measuring.take(device.order(**wrong))
    assert device.is_over()


def test_an_installable_bundle_may_be_measured_too():
    order = Device.order(None, target="motion/2.0.0/bundle.json")
    assert parse_order(order).target == "motion/2.0.0/bundle.json"


def test_it_waits_while_something_speaks_against_it_and_says_so_once(device):
    device.host.why = "the board is at 90 C"
    device.measuring.take(device.order())
    for _ in range(12):
        device.tick()
    assert device.states() == [("postponed", "")]
    assert device.measuring.status()["why"] == "the board is at 90 C"
    assert device.host.fetches == []
    device.host.why = ""
    device.tick(6)
    assert len(device.children) == 1


def test_an_update_ends_a_measurement_at_once_and_it_begins_again_later(device):
    device.measuring.take(device.order())
    device.tick()
    device.host.why, device.host.updating = "an update is under way", True
    device.tick()
    assert device.children[0].ended.is_set()
    assert device.measuring.status()["state"] == "waiting"
    device.until(lambda: not device.measuring._jobs.is_busy)
    device.host.why, device.host.updating = "", False
    device.tick(6)
    device.children[1].end(result())
    device.until(device.is_over)
    assert device.states() == [("postponed", ""), ("done", "")]


def test_heat_must_last_to_end_a_measurement(device):
    device.measuring.take(device.order())
    device.tick()
    for n in range(PATIENCE + 1):
        device.host.why = "" if n == 2 else "too hot"
        device.tick()
    assert not device.children[0].ended.is_set()
    for _ in range(PATIENCE):
        device.tick()
    assert device.children[0].ended.is_set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SignatureError("not signed"), "trust.signature"),
        (StorageError("no variant has room"), "config.storage"),
        (LinkError("another fleet"), None),
    ],
)
def test_a_bundle_that_cannot_be_brought_ends_the_job_or_is_tried_again(device, error, code):
    device.host.outcomes = [error]
    device.measuring.take(device.order())
    device.tick()
    if code is not None:
        assert device.is_over()
        assert device.states() == [("failed", code)]
        return
    assert device.states() == [("postponed", "")]
    device.tick(6)
    assert len(device.children) == 1


def test_a_link_that_stays_away_ends_the_job(device):
    device.host.outcomes = [LinkError(f"no route {n}") for n in range(MAX_FETCHES)]
    device.measuring.take(device.order())
    for _ in range(20):
        device.tick(10)
    assert device.is_over()
    assert device.states()[-1] == ("failed", "link")
    assert len(device.host.fetches) == MAX_FETCHES


@pytest.mark.parametrize("begun", [False, True])
def test_expiry_ends_it_and_tells_why_it_waited(device, begun):
    device.host.why = "" if begun else "the board is throttled"
    device.measuring.take(device.order())
    device.tick()
    device.tick(700)
    assert device.is_over()
    assert device.states()[-1] == ("failed", "link")
    assert ("throttled" in device.host.told[-1].reason) is not begun
    assert all(child.ended.is_set() for child in device.children)


def test_a_child_that_fails_fails_the_job_with_its_class(device):
    device.measuring.take(device.order())
    device.tick()
    device.children[0].end(BackendError("killed by SIGSEGV", reasons=("a: off",)))
    device.until(device.is_over)
    assert device.states() == [("failed", "backend")]
    assert device.host.told[0].reason == "killed by SIGSEGV; a: off"


def test_a_job_survives_its_agent_but_is_not_begun_for_ever(device):
    """Killed while it measures: begun anew from a clean place; killed again: given up."""
    device.measuring.take(device.order())
    for _ in range(MAX_STARTS):
        device.tick()
        assert device.measuring.status()["state"] == "measuring"
        (device.state / "measuring" / "half.blob").write_text("left behind")
        device.children[-1].ended.set()
        device.restart()
        assert not (device.state / "measuring" / "half.blob").exists()
    assert device.is_over()
    assert device.states() == [("failed", "backend")]
    assert "ended 2 times while it measured" in device.host.told[0].reason


def test_an_orderly_stop_is_no_crash(device):
    device.measuring.take(device.order())
    for _ in range(MAX_STARTS + 1):
        device.tick()
        device.measuring.stop()
        assert device.children[-1].ended.is_set()
        device.restart()
    device.tick()
    assert device.measuring.status()["state"] == "measuring"


def test_a_damaged_note_is_no_job(device):
    (device.state / "measuring.json").write_text("{")
    device.restart()
    assert device.is_over()


# -- what speaks against it

RUNNING = {"door": PipelineState(state="running", p95_ms=50.0)}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"updates": {"m": "TRIAL"}}, "an update of m is under way (TRIAL)"),
        ({"pipelines": {"door": PipelineState(state="starting")}}, "pipeline door is starting"),
        ({"budgets_ms": {"door": 40.0}}, "pipeline door is over its budget: p95 50 of 40 ms"),
        ({"sensors": {"temperature_c": 81.0}}, "the board is at 81 C, measuring needs 80 C or less"),
        ({"sensors": {"temperature_c": 81.0}, "hottest_c": 0.0}, ""),
        ({"sensors": {"throttled": 1.0}}, "the board is throttled"),
        ({"sensors": {"memory_free_mb": 100.0}}, "100 MB of memory are free, measuring needs 128 MB"),
    ],
)
def test_what_speaks_against_measuring_now(changed, why):
    about = {
        "updates": {"m": "IDLE"},
        "pipelines": RUNNING,
        "budgets_ms": {"door": 60.0},
        "sensors": {"temperature_c": 60.0, "memory_free_mb": 500.0},
        "hottest_c": 85.0,
    }
    assert hindrance(**{**about, **changed}) == why


def test_the_order_is_what_the_fleets_command_carries():
    order = parse_order(Device.order(None))
    assert parse_order(msgspec.to_builtins(order)) == order
