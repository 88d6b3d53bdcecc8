"""A list for thousands of devices: whole or not at all, and never in one commit that holds ingest up."""

import pytest

from edgekit.core import wire
from edgekit.core.cameras import Camera
from edgekit.core.errors import UsageError
from edgekit_fleet.cameras import service
from edgekit_fleet.cameras.service import AT_ONCE, CameraService
from edgekit_fleet.identity.secret_box import SecretBox
from edgekit_fleet.registry.keys import online_keys
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.store import cameras as rows
from edgekit_fleet.store.audit import FLEET, Audit
from edgekit_fleet.store.cameras import Target
from edgekit_fleet.store.database import open_database
from edgekit_fleet.store.devices import Devices

COUNT = 2 * AT_ONCE + 3
YARD = Target("label", "yard")
DOOR = Camera(name="door", kind="rtsp", uri="rtsp://10.0.0.5/2", options={})


class Killed(BaseException):
    """The process ends."""


class Fleet:
    """The camera lists of a folder, and what was sent to devices."""

    def __init__(self, data):
        self.database = open_database(data)
        self.devices = Devices(self.database)
        self.desired = DesiredStates(self.database, online_keys(data).desired, self, lambda: 1_000_000)
        self.cameras = CameraService(
            self.database,
            SecretBox(data / "box"),
            self.desired,
            Audit(self.database),
            self.devices.known,
            lambda: 1_000_000,
        )
        self.sent, self.due, self.is_last_ready = {}, [], []
        self.dies_at = None

    def publish(self, device, _leaf, body, *, retain=False):
        """As the downlink does; note how many devices were still to be told, and whether the last was not."""
        assert retain
        if len(self.sent) == self.dies_at:
            raise Killed
        self.sent[device] = wire.decode(body, wire.Desired).config
        with self.database.read() as sql:
            self.due.append(len(rows.due(sql, COUNT)))
        self.is_last_ready.append(bool(self.desired.signed(f"cam-{COUNT - 1:04d}")))

    def has_list(self):
        with self.database.read() as sql:
            return rows.get(sql, YARD) is not None


@pytest.fixture
def start(tmp_path):
    started = []

    def begin():
        started.append(Fleet(tmp_path))
        return started[-1]

    yield begin
    for fleet in started:
        fleet.database.close()


@pytest.fixture
def fleet(start):
    fleet = start()
    with fleet.database.transaction() as sql:
        for number in range(COUNT):
            fleet.devices.enroll(f"cam-{number:04d}", 1, None)
            rows.put_labels(sql, f"cam-{number:04d}", ["yard"])
    return fleet


def test_a_list_of_a_label_reaches_all_its_devices_in_commits_of_a_few(fleet):
    fleet.cameras.set_list(YARD, [DOOR], by=FLEET)
    assert len({config["cameras"]["sha256"] for config in fleet.sent.values()}) == COUNT
    assert sorted(set(fleet.due), reverse=True) == [COUNT - AT_ONCE, COUNT - 2 * AT_ONCE, 0]


def test_a_change_that_was_cut_short_by_a_kill_is_carried_out_after_the_start(fleet, start):
    fleet.dies_at = AT_ONCE + 1
    with pytest.raises(Killed):
        fleet.cameras.set_list(YARD, [DOOR], by=FLEET)
    again = start()
    again.cameras.tell_due()
    again.desired.publish_pending()
    assert len(fleet.sent.keys() | again.sent.keys()) == COUNT
    assert again.cameras.wanted_sha256(f"cam-{COUNT - 1:04d}")


def test_who_sets_a_list_waits_a_few_seconds_for_the_devices_and_the_rest_is_told_later(fleet, monkeypatch):
    monkeypatch.setattr(service, "PATIENCE_S", -1.0)
    fleet.cameras.set_list(YARD, [DOOR], by=FLEET)
    assert len(fleet.sent) == AT_ONCE
    fleet.cameras.tell_due()
    fleet.cameras.tell_due()
    assert len(fleet.sent) == COUNT


def test_one_device_of_many_with_another_list_that_does_not_go_with_it_refuses_the_whole_change(fleet):
    fleet.cameras.set_list(Target("label", "gate"), [DOOR], by=FLEET)
    fleet.cameras.set_labels("cam-0100", ["yard", "gate"], by=FLEET)
    fleet.sent.clear()
    with pytest.raises(UsageError, match="cam-0100 would have two cameras 'door'"):
        fleet.cameras.set_list(YARD, [DOOR], by=FLEET)
    assert not fleet.sent
    assert not fleet.has_list()


def test_one_device_of_many_whose_desired_state_has_no_room_for_it_refuses_the_whole_change(fleet):
    fleet.desired.configure("filler", {"cam-0100": ""})
    room = wire.MAX_DESIRED_BYTES - len(fleet.desired.signed("cam-0100"))
    fleet.desired.configure("filler", {"cam-0100": "x" * (room - 40)})
    with pytest.raises(UsageError, match="the desired state of cam-0100 would have"):
        fleet.cameras.set_list(YARD, [DOOR], by=FLEET)
    assert not fleet.has_list()


def test_the_fleets_addresses_reach_all_devices_in_commits_of_a_few(fleet):
    addresses = wire.Addresses("https://new", "mqtts://new", "https://new/m", "https://new/t")
    names = [f"cam-{number:04d}" for number in range(COUNT)]
    assert fleet.desired.tell(names, addresses) == COUNT
    assert fleet.sent.keys() == set(names)
    assert (fleet.is_last_ready[0], fleet.is_last_ready[-1]) == (False, True)
