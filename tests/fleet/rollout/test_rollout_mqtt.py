"""The whole way: signed publication, a real broker, a fleet manager that is killed in the middle."""

import contextlib
import time

import pytest
from fleet_kit import Connection, RunningFleet, wait_until
from registry_parts import files_of, write_folder

from edgekit.core import wire
from edgekit_fleet.cli.main import main

MODEL = "motion"


class Device:
    """Follows its desired state over MQTT, well or badly."""

    def __init__(self, fleet, name):
        self.name, self.seq = name, 0
        self.connection = Connection(fleet.enroll(name)).open()
        self.conn = 0
        self.appear()
        self.report("1.0.0")

    def appear(self):
        """Subscribe and announce itself, as a device does at each connection."""
        self.conn += 1
        assert self.connection.connected.wait(90)
        self.connection.subscribe(wire.down(self.name, "#"))
        self.connection.publish("state", wire.Birth(online=True, boot="b1", conn=self.conn), retain=True)

    def report(self, active, rejected=None):
        self.seq += 1
        state = wire.Reported(
            boot="b1",
            version=self.seq,
            desired=0,
            models={MODEL: wire.ModelState(active=active)},
            rejected=rejected or {},
        )
        self.connection.publish("reported", state)

    def wanted(self):
        found = [wire.decode(body, wire.Desired) for body in self.connection.answers("desired")]
        return max(found, key=lambda one: one.version).models[MODEL] if found else None

    def wish(self):
        wanted = self.wanted()
        return wanted and wanted.version

    def say(self, event, reason=""):
        wanted = self.wanted()
        self.seq += 1
        record = wire.UpdateRecord(
            mono_ns=time.monotonic_ns(),
            unix_ms=time.time_ns() // 1_000_000,
            model=MODEL,
            version=wanted.version,
            state="IDLE",
            event=event,
            reason=reason,
            rollout=wanted.rollout,
        )
        self.connection.publish("ev", wire.Batch(boot="b1", seq0=self.seq, items=[record]))


def command(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture
def running(tmp_path):
    (tmp_path / "data").mkdir()
    with RunningFleet(tmp_path / "data") as fleet, contextlib.ExitStack() as stack:
        where = ("--keys", tmp_path / "data-publisher", "--data", fleet.data)
        for version in ("1.0.0", "2.0.0"):
            folder = write_folder(
                tmp_path / version, files_of(version=version, weights=version.encode() * 99)
            )
            command("publish", folder, *where)
        fleet.members = [Device(fleet, name) for name in ("cam-1", "cam-2")]
        for device in fleet.members:
            stack.callback(device.connection.close)
        wait_until(lambda: len(fleet.get("devices", model=MODEL)["items"]) == 2, "reported states")
        yield fleet


def test_a_fleet_killed_in_the_middle_of_a_rollout_goes_on_and_takes_a_bad_one_back(running):
    wanted = {"model": MODEL, "version": "2.0.0", "waves": ["1", "100%"], "soak_s": 0}
    rollout = running.post("rollouts", **wanted)["id"]
    canary = wait_until(lambda: next((d for d in running.members if d.wish() == "2.0.0"), None), "the canary")
    (other,) = (device for device in running.members if device is not canary)
    assert other.wish() is None
    running.kill()
    wait_until(lambda: not any(d.connection.connected.is_set() for d in running.members), "the end")
    running.start()
    for device in running.members:
        device.appear()
    canary.say("COMMITTED")
    wait_until(lambda: other.wish() == "2.0.0", "the second wave")
    other.say("REJECTED", "golden sample 0 differs by 0.7")
    wait_until(lambda: running.get(f"rollouts/{rollout}")["state"] == "halted", "the halt")
    wait_until(lambda: {d.wish() for d in running.members} == {"1.0.0"}, "the way back")
    shown = running.get(f"rollouts/{rollout}")
    assert "golden sample 0" in shown["reason"]
    assert [wave["restored"] for wave in shown["waves"]] == [1, 1]
