"""Updates of a model, with real workers, slots and update machine; only the fetching is a copy."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import msgspec
import pytest
from bundles import make_bundle, make_detector, pipeline_toml

from edgekit.agent.config import AgentConfig, Intervals, LimitsTable, parse_agent_config, worker_environment
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.pool import WorkerPool
from edgekit.agent.supervisor.updates import ModelUpdates
from edgekit.base.clock import FlooredClock
from edgekit.core.errors import ExpiredError, LinkError, RollbackAttackError, StorageError, UsageError
from edgekit.core.spec import Guards
from edgekit.core.wire import DesiredModel, target_path
from edgekit.model.bundle import open_bundle
from edgekit.model.install import _store, install_initial
from edgekit.update.machine import State
from edgekit.update.slots import Slots

NO_NUMBER = 1e39
"""Too large for a float32: becomes infinite in the backend. JSON has no NaN."""
LIMITS = LimitsTable(
    start_s=60, hang_s=20, backoff_s=0.1, backoff_max_s=0.5, crashes=3, crash_window_s=300, stop_s=20
)
"""Nothing of them passes but by a fault, however busy the machine is."""
QUICK_TO_SEE_HANGS = msgspec.structs.replace(LIMITS, hang_s=1.5)


FAILS = {"options": {"fail_at": list(range(3, 500))}, "guards": {"error_ratio": 0.1}}


class Device:
    """A supervisor's core in the test's own process: pipelines, one managed model, no fleet."""

    def __init__(self, folder: Path, *, first: bool = True, limits: LimitsTable = LIMITS, fps: float = 200.0,
        make=make_bundle, redact: str = "", stages: str = "",
    ):  # fmt: skip
        self.folder, self.state = folder, folder / "state"
        self.reactor = Reactor()
        self.slots = Slots(self.state)
        self.records, self.alerts, self.seconds, self.fetches = [], [], [], []
        self.fetch_errors = []
        if first:
            install_initial(self.slots, "motion", make(folder / "first"), folder / "unpacked")
        self.make = make
        text = pipeline_toml(fps=fps).replace("[privacy]", f"[privacy]\n{redact}")
        if stages:
            text = text.replace('model = "motion"', "") + stages
        (folder / "p.toml").write_text(text)
        plans = parse_agent_config('[agent]\npipelines=["p.toml"]', folder=folder).pipelines
        config = AgentConfig(
            state=self.state, name="", pipelines=plans, limits=limits, intervals=Intervals(progress_s=0.1)
        )
        self.pool = WorkerPool(config, self.reactor, worker_environment(config.state), self, self._place)
        self.updates = ModelUpdates(
            "motion",
            self.slots,
            self.state / "update",
            self.reactor,
            FlooredClock(folder / "c"),
            self,
            limits,
            lambda: self.pool.hosted("motion"),
        )
        self.pool.apply(plans)
        self.reactor.every(0.1, self._tick)
        self.updates.resume()

    def _place(self, model):
        if model.managed:
            self.updates.place(model)
        else:
            model.run_on(model.plan.pinned)

    def _tick(self):
        self.pool.tick()
        self.updates.tick()

    @property
    def pipeline(self):
        return self.pool.pipelines["motor"]

    @property
    def worker(self):
        (worker,) = self.pool.workers.values()
        return worker

    @property
    def hosted(self):
        (model,) = self.pool.hosted("motion")
        return model

    def close(self):
        self.pool.stop()
        self.until(lambda: self.pool.is_stopped)
        self.reactor.close()

    def until(self, claim, limit_s=100.0):
        deadline_s = self.reactor.now_s() + limit_s
        while not claim():
            assert self.reactor.now_s() < deadline_s, (
                f"{self.events()} {self.pipeline.reported()} {self.updates.model_state()} {self.alerts}"
            )
            self.reactor.turn(0.05)

    # what a test does

    def want(self, version="2.0.0", *, soak_s=1, rollout_guards=None, **bundle):
        made = self.make(self.folder / version, version=version, **bundle)
        data = (made / "bundle.json").read_bytes()
        desired = DesiredModel(
            version, target_path("motion", version), hashlib.sha256(data).hexdigest(), len(data),
            soak_s=soak_s, guards=rollout_guards,
        )  # fmt: skip
        self.made = made
        self.updates.want(desired, is_new=True)
        return desired

    def runs(self, version):
        self.until(
            lambda: (
                self.hosted.is_settled
                and self.hosted.running.version == version
                and any(second.running.version == version and second.frames for second in self.hosted.recent)
            )
        )

    def ends(self, event):
        self.until(lambda: event in self.events())
        self.until(lambda: self.updates.reported().state == "IDLE")

    def events(self):
        return [record.event for record in self.records]

    def active(self):
        active = self.slots.load("motion").active
        return active.version if active else None

    # what the parts tell

    def fetch(self, model, done):
        self.fetches.append(model)
        if self.fetch_errors:
            done(self.fetch_errors.pop(0))
            return
        _store(open_bundle(self.made), self.state / "blobs")
        done(None)

    def measure(self, bundle, done):
        done()

    def announce(self, record):
        self.records.append(record)

    def alert(self, level, code, message, name):
        self.alerts.append((code, message))

    def collect_garbage(self):
        self.slots.collect_garbage()

    def changed(self):
        pass

    def happened(self, model, what, reason=""):
        if model.managed:
            self.updates.happened(what, reason)

    def progressed(self, pipeline, progress):
        self.seconds.append(progress)
        if pipeline.models[progress.stage].managed:
            self.updates.progressed(progress)

    def event(self, pipeline, message):
        self.record(pipeline, message.record)

    def record(self, pipeline, record):
        pass


@pytest.fixture
def device(tmp_path):
    made = Device(tmp_path)
    yield made
    made.close()


def test_a_good_version_is_taken_and_no_frame_lies_between_the_two(device):
    device.runs("1.0.0")
    device.want()
    device.ends("COMMITTED")
    device.runs("2.0.0")
    slot = device.slots.load("motion")
    assert (slot.active.version, slot.previous.version, slot.staged) == ("2.0.0", "1.0.0", None)
    assert device.events() == ["WANTED", "FETCHED", "INSTALLED", "COMMITTED"]
    assert device.pipeline.restarts == 0
    # frames go to the old and then to the new version, and each was finished by one of them
    device.until(lambda: sum(second.frames for second in device.seconds) > 300)
    captured = sum(second.captured for second in device.seconds)
    assert captured - sum(second.frames + second.dropped for second in device.seconds) <= 2


@pytest.mark.parametrize(
    ("bundle", "told"),
    [
        pytest.param({"options": {"latency_ms": 20}, "guards": {"p99_ms": 10}}, "p99_ms", id="slow"),
        pytest.param({"golden": (0.9, 0.1)}, "golden", id="wrong answers"),
        pytest.param({"scores": (NO_NUMBER, 0.5), "golden": (0.1, 0.9)}, "golden", id="no numbers, golden"),
        pytest.param({"options": {"crash_at": 1}}, "SIGSEGV", id="crashes on load"),
        pytest.param({"options": {"crash_at": 60}}, "SIGSEGV", id="crashes on live frames"),
        pytest.param(FAILS, "error_ratio", id="fails"),
        pytest.param({"options": {"lose_at": 40}}, "accelerator", id="loses its accelerator"),
        pytest.param({"options": {"inputs": {}}}, "no tensor", id="not what its manifest says"),
    ],
)
def test_a_bad_version_is_left_by_the_device_alone_and_not_tried_again(device, bundle, told):
    device.runs("1.0.0")
    desired = device.want(**bundle)
    device.ends("ROLLED_BACK")
    device.runs("1.0.0")
    assert device.active() == "1.0.0"
    assert told in device.records[-1].reason
    assert told in device.updates.rejected["motion@2.0.0"]
    device.updates.want(desired, is_new=True)
    assert device.fetches == ["motion"]


SLOW_FIRST = """
[[stage]]
name = "slow"
model = "./slow"
[[stage]]
name = "later"
model = "motion"
"""


@pytest.mark.parametrize("crash_at", [pytest.param(1, id="on load"), pytest.param(30, id="on live frames")])
def test_a_crash_is_the_fault_of_a_later_stages_version_on_trial_though_the_first_model_is_at_work(
    tmp_path, crash_at
):
    make_bundle(tmp_path / "slow", model="slow", options={"latency_ms": 20})
    device = Device(tmp_path, stages=SLOW_FIRST, fps=100)
    try:
        device.runs("1.0.0")
        device.want(soak_s=60, options={"crash_at": crash_at})
        device.ends("ROLLED_BACK")
        device.runs("1.0.0")
        assert "SIGSEGV" in device.updates.rejected["motion@2.0.0"]
        assert not [text for code, text in device.alerts if code == "agent.pipeline_failed"]
    finally:
        device.close()


def test_a_version_that_hangs_is_left_as_one_that_crashes(tmp_path):
    device = Device(tmp_path, limits=QUICK_TO_SEE_HANGS)
    try:
        device.runs("1.0.0")
        device.want(options={"hang_at": 60})
        device.ends("ROLLED_BACK")
        device.runs("1.0.0")
        assert "finished no frame" in device.updates.rejected["motion@2.0.0"]
    finally:
        device.close()


def test_outputs_that_are_no_numbers_are_errors_on_live_frames_too(device):
    """Where no golden sample shows them."""
    device.runs("1.0.0")
    device.want(guards={"error_ratio": 0.05}, scores=(NO_NUMBER, 0.5), golden=(0, 0), without_golden=True)
    device.ends("ROLLED_BACK")
    assert "error_ratio" in device.records[-1].reason
    assert device.records[-1].measured["errors"] > 0
    device.runs("1.0.0")


def test_guards_of_the_rollout_hold_beside_the_bundles_own(device):
    device.runs("1.0.0")
    device.want(options={"latency_ms": 20}, rollout_guards=Guards(p99_ms=5))
    device.ends("ROLLED_BACK")
    assert "p99_ms" in device.records[-1].reason


def test_a_newer_wish_takes_the_place_of_a_trial_under_way(device):
    device.runs("1.0.0")
    device.want(soak_s=60)
    device.until(lambda: device.pipeline.running and device.pipeline.running.version == "2.0.0")
    device.want("3.0.0")
    device.ends("COMMITTED")
    device.runs("3.0.0")
    assert device.active() == "3.0.0"
    assert device.updates.rejected == {}


def test_one_kill_from_outside_does_not_end_a_trial(device):
    device.runs("1.0.0")
    device.want(soak_s=5)
    device.until(lambda: device.pipeline.running and device.pipeline.running.version == "2.0.0")
    os.kill(device.worker.pid, signal.SIGKILL)
    device.ends("COMMITTED")
    device.runs("2.0.0")


def test_a_fetch_that_fails_for_now_is_tried_again(device, monkeypatch):
    monkeypatch.setattr("edgekit.agent.supervisor.updates.RETRY_S", (0.05,))
    device.runs("1.0.0")
    device.fetch_errors = [LinkError("no route"), LinkError("no route")]
    device.want()
    device.ends("COMMITTED")
    assert len(device.fetches) == 3


def test_an_update_that_cannot_be_fetched_is_postponed_and_taken_up_again(device, monkeypatch):
    monkeypatch.setattr("edgekit.agent.supervisor.updates.RETRY_S", (0.05,))
    monkeypatch.setattr("edgekit.agent.supervisor.updates.POSTPONED_S", (0.2,))
    device.runs("1.0.0")
    device.fetch_errors = [LinkError("no route")] * 3
    desired = device.want()
    device.ends("POSTPONED")
    device.until(lambda: device.updates.want(desired, is_new=False) or "COMMITTED" in device.events())


@pytest.mark.parametrize("fault", [RollbackAttackError("timestamp 3, want 4"), ExpiredError("yesterday")])
def test_metadata_that_is_old_or_expired_rejects_no_version(device, monkeypatch, fault):
    """The fleet was restored from a backup, or down for weeks: the bundle itself is as good as ever."""
    monkeypatch.setattr("edgekit.agent.supervisor.updates.RETRY_S", (0.05,))
    device.runs("1.0.0")
    device.fetch_errors = [fault] * 3
    desired = device.want()
    device.ends("POSTPONED")
    assert device.updates.rejected == {}
    device.updates.want(desired, is_new=True)
    device.ends("COMMITTED")


def test_going_back_by_hand_takes_the_previous_version_and_refuses_the_one_left(device):
    device.runs("1.0.0")
    desired = device.want()
    device.ends("COMMITTED")
    device.updates.revert("a person asked")
    device.ends("ROLLED_BACK")
    device.runs("1.0.0")
    assert device.active() == "1.0.0"
    assert device.updates.rejected == {"motion@2.0.0": "a person asked"}
    device.updates.want(desired, is_new=True)
    assert device.updates.reported().state == "IDLE"
    device.updates.retry("2.0.0")
    device.updates.want(desired, is_new=True)
    device.until(lambda: device.events().count("COMMITTED") == 2)


def test_without_a_previous_version_there_is_no_way_back(device):
    with pytest.raises(UsageError, match="no previous version"):
        device.updates.revert("asked")


def test_a_version_that_crashes_later_gives_way_to_the_previous_one(tmp_path):
    device = Device(tmp_path, limits=msgspec.structs.replace(LIMITS, crashes=1))
    try:
        device.runs("1.0.0")
        device.want(options={"crash_at": 800})  # 4 s at its rate; the trial takes one
        device.ends("COMMITTED")
        device.ends("ROLLED_BACK")
        device.runs("1.0.0")
        assert device.active() == "1.0.0"
        assert "crashed too often" in device.updates.rejected["motion@2.0.0"]
    finally:
        device.close()


def test_a_version_whose_bundle_breaks_on_disk_gives_way_at_its_first_start_and_not_at_the_crash_limit(
    tmp_path,
):
    device = Device(tmp_path, limits=msgspec.structs.replace(LIMITS, crashes=100))
    device.runs("1.0.0")
    device.want()
    device.ends("COMMITTED")
    device.runs("2.0.0")
    manifest = device.slots.folder("motion", "active") / "bundle.json"
    manifest.unlink()
    manifest.write_text("{")
    os.kill(device.worker.pid, signal.SIGKILL)
    device.runs("1.0.0")
    assert device.active() == "1.0.0"
    device.close()


def test_a_first_version_comes_by_update_and_a_bad_one_leaves_none(tmp_path):
    device = Device(tmp_path, first=False)
    try:
        device.want("1.0.0", golden=(0.9, 0.1))
        device.ends("ROLLED_BACK")
        assert device.active() is None
        assert "waits for a first version" in device.pipeline.reported().message
        device.want("1.1.0")
        device.ends("COMMITTED")
        device.runs("1.1.0")
    finally:
        device.close()


def test_a_disk_that_takes_no_note_costs_an_update_and_not_the_pipeline(device, monkeypatch):
    monkeypatch.setattr("edgekit.agent.supervisor.updates.REVIVE_S", 0.3)
    device.runs("1.0.0")
    real, broken = Slots.commit, [True]

    def commit(self, model, version):
        if broken and broken.pop():
            raise StorageError("no space left on device")
        return real(self, model, version)

    monkeypatch.setattr(Slots, "commit", commit)
    desired = device.want()
    device.until(lambda: device.alerts)
    assert device.pipeline.state == "running"
    device.until(lambda: device.updates.want(desired, is_new=True) or device.active() == "2.0.0")
    device.runs("2.0.0")


def test_a_pipeline_survives_its_worker_and_says_why_it_ended(device):
    device.runs("1.0.0")
    os.kill(device.worker.pid, signal.SIGKILL)
    device.until(lambda: device.pipeline.restarts == 1)
    device.runs("1.0.0")
    assert ("agent.worker_ended", "killed by SIGKILL") in device.alerts


def test_a_worker_that_speaks_garbage_is_replaced(device):
    device.runs("1.0.0")
    first = device.worker.pid
    # a decoder that meets what is no message, as if the worker had sent it
    channel = device.worker._process.channel
    monkey = channel._incoming
    monkey._buffer += b"\xff\xff\xff\xff"
    device.until(lambda: device.worker.pid not in (None, first))
    device.runs("1.0.0")
    assert device.worker.malformed == 1


def test_a_pipeline_with_a_wrong_configuration_fails_and_is_not_started_again(tmp_path):
    device = Device(tmp_path)
    text = pipeline_toml().replace('"synthetic"', '"telepathy"')
    (tmp_path / "p.toml").write_text(text)
    device.pool.apply(parse_agent_config('[agent]\npipelines=["p.toml"]', folder=tmp_path).pipelines)
    device.until(lambda: device.pipeline.state == "failed")
    assert "telepathy" in device.pipeline.message
    device.until(lambda: device.worker.pid is None)
    device.close()


def test_the_active_version_is_replaced_by_the_previous_where_its_files_are_gone(device):
    device.runs("1.0.0")
    device.want()
    device.ends("COMMITTED")
    for name in ("blobs", "bundles"):
        for path in (device.state / name).rglob("*"):
            digest = device.slots.load("motion").active.sha256
            if path.name == digest or "motion-2.0.0" in path.parts:
                path.unlink() if path.is_file() else None
    device.worker.restart()
    device.updates._run_active()
    device.runs("1.0.0")
    assert any("active" in message for _, message in device.alerts)


def test_machine_states_are_those_of_the_contract():
    assert {state.value for state in State} == {"IDLE", "FETCHING", "INSTALLING", "TRIAL", "ROLLING_BACK"}


def hiding(folder, first):
    """Return a device that hides faces, whose first version finds what ``first`` says."""

    def make(path, version="1.0.0", labels=first):
        return make_detector(path, version=version, labels=labels)

    return Device(folder, make=make, redact='redact = ["Face"]')


def test_an_update_that_lost_a_hidden_label_fails_its_trial(tmp_path):
    device = hiding(tmp_path, ("face", "cap"))
    device.runs("1.0.0")
    device.want(labels=("cap", "dog"))
    device.ends("ROLLED_BACK")
    device.runs("1.0.0")
    reasons = " ".join(record.reason for record in device.records)
    assert "has no label 'Face'; its labels: cap, dog" in reasons
    device.want("3.0.0", labels=("dog", "FACE"))
    device.ends("COMMITTED")
    device.runs("3.0.0")
    device.close()


def test_where_the_first_version_cannot_find_a_hidden_label_no_frame_is_taken_until_one_can(tmp_path):
    device = hiding(tmp_path, ("cap", "dog"))
    device.until(lambda: device.pipeline.state == "failed")
    assert device.pipeline.message.splitlines()[-1] == "its labels: cap, dog"
    assert device.pipeline.totals["frames"] == 0
    device.want("3.0.0", labels=("face",))
    device.ends("COMMITTED")
    device.runs("3.0.0")
    device.close()
