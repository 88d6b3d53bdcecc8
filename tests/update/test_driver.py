from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgekit.base.disk import LocalDisk
from edgekit.core.errors import EdgekitError, StorageError
from edgekit.core.wire import DesiredModel
from edgekit.update.driver import UpdateDriver
from edgekit.update.machine import Event, State

MODEL = "m"


def wanted(version: str) -> DesiredModel:
    return DesiredModel(version, f"m/{version}/bundle.json", "0" * 64, 10, rollout="r1")


class DiedError(Exception):
    """Stands for kill -9."""


class World:
    """Slots and outbox as the ports see them, and a process that can be killed at any call."""

    def __init__(self) -> None:
        self.active, self.previous, self.staged = "1.0.0", "", ""
        self.announced: list[tuple[str, str, str]] = []
        self.calls: list[str] = []
        self.die_at = -1
        self.outliving: set[str] = set()

    def call(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.die_at:
            raise DiedError

    def fetch(self, job):
        self.call("fetch")

    def install(self, job):
        self.call("install")
        self.staged = job.version
        self.call("installed")

    def start_trial(self, job):
        self.call("start_trial")

    def commit(self, job):
        self.call("commit")
        if self.staged == job.version:
            self.active, self.previous, self.staged = job.version, self.active, ""
        self.call("committed")

    def roll_back(self, job):
        self.call("roll_back")
        if self.staged == job.version:
            self.staged = ""
        if self.active == job.version:
            self.active, self.previous = self.previous, self.active
        self.call("rolled_back")

    def outlives_restart(self, job):
        return job.version in self.outliving

    def is_committed(self, job):
        return self.active == job.version

    def announce(self, record):
        self.call("announce")
        self.announced.append((record.version, record.state, record.event))
        self.call("announced")


@pytest.fixture
def world():
    return World()


@pytest.fixture
def driver(tmp_path, clock, world):
    return UpdateDriver(MODEL, tmp_path / "update" / "m.json", world, clock)


def restarted(driver: UpdateDriver, world: World) -> UpdateDriver:
    fresh = UpdateDriver(MODEL, driver._path, world, driver._clock)
    fresh.resume()
    return fresh


def drive(driver: UpdateDriver, *events: Event) -> None:
    for event in events:
        driver.handle(event)


def test_an_update_that_goes_well_is_announced_step_by_step(driver, world):
    assert driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver.handle(Event.COMMITTED, "every guard kept", {"frames": 50.0})
    assert world.announced == [
        ("2.0.0", "FETCHING", "WANTED"),
        ("2.0.0", "INSTALLING", "FETCHED"),
        ("2.0.0", "TRIAL", "INSTALLED"),
        ("2.0.0", "IDLE", "COMMITTED"),
    ]
    assert (world.active, world.previous) == ("2.0.0", "1.0.0")
    assert driver.reported().state == "IDLE"
    assert not driver.want(wanted("2.0.0"), world.active)


def test_a_failed_trial_rolls_back_and_the_version_is_not_tried_again(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver.handle(Event.FAILED, "p99_ms 200, at most 80", {"p99_ms": 200.0})
    assert driver.state is State.ROLLING_BACK
    driver.handle(Event.ROLLED_BACK)
    assert world.announced[-1] == ("2.0.0", "IDLE", "ROLLED_BACK")
    assert driver._saved.last.reason == "p99_ms 200, at most 80"
    assert driver._saved.last.measured == {"p99_ms": 200.0}
    assert driver.rejected == {"m@2.0.0": "p99_ms 200, at most 80"}
    assert not driver.want(wanted("2.0.0"), world.active)
    driver.retry("2.0.0")
    assert driver.want(wanted("2.0.0"), world.active)


def test_a_refusal_before_any_trial_is_remembered(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    driver.handle(Event.REJECTED, "no variant runs here")
    assert world.announced[-1] == ("2.0.0", "IDLE", "REJECTED")
    assert driver.rejected == {"m@2.0.0": "no variant runs here"}


def test_a_step_that_keeps_failing_is_postponed_and_may_be_wanted_again(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    for _ in range(3):
        driver.handle(Event.RETRY, "no link")
    assert driver.state is State.IDLE
    assert world.calls.count("fetch") == 3
    assert world.announced[-1] == ("2.0.0", "IDLE", "POSTPONED")
    assert driver.rejected == {}
    assert driver.want(wanted("2.0.0"), world.active)


def test_another_version_wanted_during_a_fetch_takes_its_place(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    serial = driver.job.serial
    assert driver.want(wanted("3.0.0"), world.active)
    assert (driver.state, driver.job.version) == (State.FETCHING, "3.0.0")
    driver.handle(Event.FETCHED, serial=serial)
    assert driver.state is State.FETCHING


def test_another_version_wanted_during_a_trial_waits_for_the_rollback(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver.want(wanted("3.0.0"), world.active)
    assert driver.state is State.ROLLING_BACK
    driver.handle(Event.ROLLED_BACK)
    assert (driver.state, driver.job.version) == (State.FETCHING, "3.0.0")
    assert driver.rejected == {}


def test_the_active_version_wanted_again_ends_a_trial_and_begins_nothing(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver.want(wanted("1.0.0"), world.active)
    driver.handle(Event.ROLLED_BACK)
    assert driver.state is State.IDLE
    assert world.active == "1.0.0"


@pytest.mark.parametrize("reject", [True, False])
def test_a_commanded_rollback_goes_back_without_the_network(driver, world, reject):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED, Event.COMMITTED)
    assert driver.revert("2.0.0", "1.0.0", "commanded", reject=reject)
    driver.handle(Event.ROLLED_BACK)
    assert world.active == "1.0.0"
    assert world.announced[-1] == ("2.0.0", "IDLE", "ROLLED_BACK")
    assert driver.rejected == ({"m@2.0.0": "commanded"} if reject else {})
    assert not driver.revert("1.0.0", "", "commanded", reject=True)


def test_a_restart_during_a_trial_rolls_back_once_and_rejects_the_second_time(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver = restarted(driver, world)
    assert driver.state is State.ROLLING_BACK
    driver.handle(Event.ROLLED_BACK)
    assert world.announced[-1] == ("2.0.0", "IDLE", "POSTPONED")
    assert driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    driver = restarted(driver, world)
    driver.handle(Event.ROLLED_BACK)
    assert driver.rejected == {"m@2.0.0": "restarted during the trial"}


def test_a_trial_that_outlives_a_restart_goes_on_and_can_commit(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    world.outliving.add("2.0.0")
    driver = restarted(driver, world)
    assert (driver.state, world.calls[-1]) == (State.TRIAL, "start_trial")
    driver.handle(Event.COMMITTED)
    assert world.active == "2.0.0"


def test_a_process_killed_right_after_the_switch_completes_the_commit(driver, world):
    driver.want(wanted("2.0.0"), world.active)
    drive(driver, Event.FETCHED, Event.INSTALLED)
    world.die_at = len(world.calls) + 2  # in commit, the slot switched and nothing noted
    with pytest.raises(DiedError):
        driver.handle(Event.COMMITTED)
    restarted(driver, world)
    assert world.active == "2.0.0"
    assert "roll_back" not in world.calls
    assert world.announced[-1] == ("2.0.0", "IDLE", "COMMITTED")


def test_an_event_that_cannot_happen_is_a_bug(driver):
    with pytest.raises(EdgekitError, match="cannot happen"):
        driver.handle(Event.FETCHED)


def test_a_disk_that_refuses_the_state_leaves_everything_as_it_was(tmp_path, clock, world):
    class FullDisk(LocalDisk):
        is_full = False

        def write(self, path, data):
            if self.is_full:
                raise OSError(28, "No space left on device")
            super().write(path, data)

    disk = FullDisk()
    driver = UpdateDriver(MODEL, tmp_path / "m.json", world, clock, disk=disk)
    driver.want(wanted("2.0.0"), world.active)
    disk.is_full = True
    with pytest.raises(StorageError):
        driver.handle(Event.FETCHED)
    assert driver.state is State.FETCHING
    disk.is_full = False
    driver.handle(Event.FETCHED)
    assert driver.state is State.INSTALLING


def test_a_damaged_state_begins_anew(tmp_path, clock, world):
    (tmp_path / "m.json").write_bytes(b"\0\0")
    driver = UpdateDriver(MODEL, tmp_path / "m.json", world, clock)
    driver.resume()
    assert driver.state is State.IDLE
    assert driver.want(wanted("2.0.0"), world.active)


def answer(driver: UpdateDriver) -> None:
    """Do what a working owner does until the update is over."""
    good = {
        State.FETCHING: Event.FETCHED, State.INSTALLING: Event.INSTALLED, State.TRIAL: Event.COMMITTED,
        State.ROLLING_BACK: Event.ROLLED_BACK,
    }  # fmt: skip
    for _ in range(20):
        if driver.state is State.IDLE:
            return
        driver.handle(good[driver.state])


@pytest.mark.parametrize("die_at", range(1, 20))
def test_killed_at_any_call_the_update_ends_well_after_restarts(tmp_path, clock, die_at):
    """Dies once before or after each thing it does; the device comes to rest with a whole model."""
    world = World()
    world.die_at = die_at
    driver = UpdateDriver(MODEL, tmp_path / "m.json", world, clock)
    try:
        driver.want(wanted("2.0.0"), world.active)
        answer(driver)
    except DiedError:
        driver = restarted(driver, world)
        answer(driver)
    if driver.want(wanted("2.0.0"), world.active):
        answer(driver)
    assert (world.active, world.previous, world.staged) == ("2.0.0", "1.0.0", "")
    finals = [event for _, state, event in world.announced if state == "IDLE"]
    assert finals[-1] == "COMMITTED"
    assert len(list(itertools.groupby(finals))) <= 2


class DriverMachine(RuleBasedStateMachine):
    """Any order of wishes, outcomes and restarts keeps the slots and the state in step."""

    @initialize()
    def begin(self) -> None:
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.world = World()

        class Clock:
            def monotonic_ns(self):
                return 0

            def unix_ms(self):
                return 0

        self.driver = UpdateDriver(MODEL, Path(self.folder.name) / "m.json", self.world, Clock())
        self.driver.resume()

    @rule(version=st.sampled_from(["1.0.0", "2.0.0", "3.0.0", "4.0.0"]))
    def want(self, version: str) -> None:
        self.driver.want(wanted(version), self.world.active)

    @precondition(lambda self: self.driver.state is not State.IDLE)
    @rule(outcome=st.sampled_from(["good", "retry", "bad"]))
    def outcome(self, outcome: str) -> None:
        events = {
            State.FETCHING: (Event.FETCHED, Event.RETRY, Event.REJECTED),
            State.INSTALLING: (Event.INSTALLED, Event.RETRY, Event.REJECTED),
            State.TRIAL: (Event.COMMITTED, Event.FAILED, Event.FAILED),
            State.ROLLING_BACK: (Event.ROLLED_BACK, Event.RETRY, Event.ROLLED_BACK),
        }[self.driver.state]
        self.driver.handle(events[("good", "retry", "bad").index(outcome)], outcome)

    @rule()
    def restart(self) -> None:
        self.driver = restarted(self.driver, self.world)

    @rule(reject=st.booleans())
    def revert(self, *, reject: bool) -> None:
        self.driver.revert(self.world.active, self.world.previous, "commanded", reject=reject)

    @invariant()
    def there_is_a_model_and_never_a_rejected_trial(self) -> None:
        assert self.world.active
        if self.driver.state is State.TRIAL:
            assert self.world.staged == self.driver.job.version
            assert f"m@{self.world.staged}" not in self.driver.rejected

    @invariant()
    def what_is_saved_is_what_is_meant(self) -> None:
        saved = LocalDisk().read(self.driver._path)
        if saved is not None:
            assert msgspec.json.decode(saved)["state"] == self.driver.state.value

    def teardown(self) -> None:
        self.folder.cleanup()


DriverMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDriverMachine = DriverMachine.TestCase
