"""What is known of devices: births, wills in any order, reported states, pages."""

import itertools

import pytest

from edgekit.core import wire
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices


@pytest.fixture
def devices():
    database = Database(":memory:")
    found = Devices(database)
    for name in ("a", "b", "c_1", "cx1", "d"):
        found.enroll(name, 1, None)
    yield found
    database.close()


def birth(conn, boot="b", *, online=True):
    return wire.Birth(online=online, boot=boot, conn=conn, profile="rpi5", desired=conn)


def test_an_old_will_does_not_kill_a_newer_birth(devices):
    assert devices.take_birth("a", birth(4), 1)
    assert not devices.take_birth("a", birth(3, online=False), 2)
    assert devices.get("a").online


def test_a_will_of_an_earlier_outbox_does_not_kill_a_newer_birth(devices):
    devices.take_birth("a", birth(9, boot="old"), 1)
    devices.take_birth("a", birth(1, boot="new"), 2)
    assert not devices.take_birth("a", birth(9, boot="old", online=False), 3)
    assert devices.get("a").online


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_births_and_wills_in_any_order_and_twice_end_the_same(devices, order):
    """The last connection is 2, and its will was sent: the device is offline."""
    told = [birth(1), birth(1, online=False), birth(2), birth(2, online=False)]
    for number in (*order, *order):
        devices.take_birth("a", told[number], 1)
    assert not devices.get("a").online


def test_a_birth_from_before_the_brokers_start_says_nothing_about_presence(devices):
    assert devices.take_birth("a", birth(1), 1, present=False)
    found = devices.get("a")
    assert not found.online
    assert found.profile == "rpi5"


def test_an_unknown_device_is_ignored(devices):
    assert not devices.take_birth("nobody", birth(1), 1)
    assert not devices.take_reported("nobody", wire.Reported("b", 1, 1), 1)


def test_an_older_reported_state_of_the_same_boot_is_passed_over(devices):
    models = {"m": wire.ModelState(active="2.0.0", variant="v")}
    assert devices.take_reported("a", wire.Reported("b", 5, 1, models=models), 1)
    assert not devices.take_reported("a", wire.Reported("b", 4, 1), 2)
    assert devices.take_reported("a", wire.Reported("c", 1, 1, models=models), 3)
    assert devices.reported("a").boot == "c"
    assert devices.get("a").models == {"m": "2.0.0"}


def test_pages_follow_one_another_without_holes(devices):
    first = devices.page(limit=2)
    second = devices.page(limit=2, after=first.next)
    third = devices.page(limit=2, after=second.next)
    assert [one.id for page in (first, second, third) for one in page.items] == ["a", "b", "c_1", "cx1", "d"]
    assert third.next is None


def test_filters(devices):
    devices.take_birth("b", birth(1), 1)
    devices.take_reported("d", wire.Reported("b", 1, 1, models={"m": wire.ModelState(active="2.0.0")}), 1)

    def ids(**filters):
        return [one.id for one in devices.page(**filters).items]

    assert ids(search="c_") == ["c_1"]  # not a wildcard
    assert ids(online=True) == ["b"]
    assert ids(online=False) == ["a", "c_1", "cx1", "d"]
    assert ids(profile="rpi5") == ["b"]
    assert ids(model="m") == ids(model="m", version="2.0.0") == ["d"]
    assert ids(model="m", version="1.0.0") == []


def test_counts(devices):
    devices.take_birth("b", birth(1), 1)
    devices.revoke("d")
    assert devices.counts() == {"total": 5, "online": 1, "revoked": 1}
    assert devices.is_welcome("a")
    assert not devices.is_welcome("d")
    assert not devices.is_welcome("nobody")
    devices.all_offline()
    assert devices.counts()["online"] == 0
