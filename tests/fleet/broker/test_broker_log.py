"""What the broker refuses of a device is counted by device and reason, and is on its page."""

import pytest
from fleet_kit import Connection, LocalFleet, wait_until

from edgekit.core import wire
from edgekit_fleet.app import compose
from edgekit_fleet.broker.broker_log import BrokerLog
from edgekit_fleet.broker.embedded import REFUSALS

LINE = '[7] 2026/11/27 13:41:11.8 [ERR] 127.0.0.1:4 - mid:34 - "{}" - {}\n'


def test_foreign_topics_and_what_is_too_large_are_on_the_devices_page(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "_TICK_S", 0.1)
    with LocalFleet(tmp_path) as fleet:
        identity = fleet.enroll("a")
        with Connection(identity) as connection:
            connection.client.publish(wire.up("b", "m"), b"x", 1)
            connection.client.publish(wire.up("b", "ev"), b"x", 1)
            connection.client.subscribe(wire.down("b", "#"), 0)
            connection.client.publish(wire.up("a", "m"), bytes(3 << 20), 1)
            wait_until(lambda: connection.disconnects, "the broker closes the connection")

        def turned_away():
            found = {entry["reason"]: entry["count"] for entry in fleet.get("devices/a")["turned_away"]}
            return found if len(found) == 3 else None

        found = wait_until(turned_away, "it is counted")
        assert found["foreign topic"] == 2
        assert found["foreign subscription"] == 1
        assert found["too large"] >= 1


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "nats.log"
    path.write_text(LINE.format("a", "Publish Violation - Subject x"))
    return path


def test_what_is_in_the_log_at_first_is_not_counted_again(log):
    reader = BrokerLog(log, REFUSALS)
    assert not reader.read()
    with log.open("a") as file:
        file.write(LINE.format("a", "Publish Violation - Subject x") * 2)
        file.write(LINE.format("b", "maximum payload exceeded: 3 vs 2"))
        file.write(LINE.format("../b", "Publish Violation - Subject x"))
        file.write("something else\n")
    assert reader.read() == {("a", "foreign topic"): 2, ("b", "too large"): 1}
    assert not reader.read()


def test_a_line_that_is_half_written_is_counted_once_it_is_whole(log):
    reader = BrokerLog(log, REFUSALS)
    line = LINE.format("a", "Publish Violation - Subject x")
    for part, counted in ((line[:70], 0), (line[70:], 1)):
        with log.open("a") as file:
            file.write(part)
        assert sum(reader.read().values()) == counted


def test_a_log_that_is_replaced_is_read_from_its_beginning(log):
    reader = BrokerLog(log, REFUSALS)
    log.rename(log.with_suffix(".1"))
    assert not reader.read()
    log.write_text(LINE.format("a", "Subscription Violation - Subject x"))
    assert reader.read() == {("a", "foreign subscription"): 1}


def test_counts_of_a_device_add_up(services):
    services.messages.turn_away({("a", "too large"): 2}, 1000)
    services.messages.turn_away({("a", "too large"): 3, ("a", "over quota"): 1, ("b", "too large"): 9}, 2000)
    counted = [(entry.reason, entry.count, entry.last_ms) for entry in services.messages.turned_away("a")]
    assert counted == [("too large", 5, 2000), ("over quota", 1, 2000)]
