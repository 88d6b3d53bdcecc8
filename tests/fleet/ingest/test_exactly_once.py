"""Messages reach the store once each, whatever is killed on the way."""

import os
import signal
import sqlite3

import pytest
from fleet_kit import Connection, LocalFleet, Mosquitto, RunningFleet, Sender, alert, wait_until

from edgekit.core import wire

BOTH = pytest.mark.parametrize("broker", ["embedded", "mosquitto"])
"""The brokers that a fleet manager starts."""


def stored(fleet):
    """The alerts in the fleet's database, in the order of their numbers."""
    with sqlite3.connect(fleet.data / "fleet.sqlite") as sql:
        rows = sql.execute("SELECT seq FROM event WHERE kind = 'alert' ORDER BY seq").fetchall()
    sql.close()
    return [row[0] for row in rows]


def test_a_watermark_is_told_after_the_commit(tmp_path):
    with LocalFleet(tmp_path) as fleet, Sender(fleet.enroll("a"), 50) as sender:
        sender.run()
        assert stored(fleet) == list(range(1, 51))


@BOTH
def test_killing_the_broker_loses_and_doubles_nothing(tmp_path, broker):
    with LocalFleet(tmp_path, "--broker", broker) as fleet, Sender(fleet.enroll("a"), 3000) as sender:
        for goal in (500, 1500):
            sender.run(until=goal)
            before = sender.connection.disconnects
            os.kill(fleet.broker_pid(), signal.SIGKILL)
            wait_until(lambda seen=before: sender.connection.disconnects > seen, "disconnect")
        sender.run()
        assert stored(fleet) == list(range(1, 3001))
        assert fleet.fleet.broker.restarts == 2


@BOTH
def test_killing_the_fleet_manager_loses_and_doubles_nothing(tmp_path, broker):
    with RunningFleet(tmp_path, "--broker", broker) as fleet, Sender(fleet.enroll("a"), 3000) as sender:
        sender.run(until=500)
        sender.step()
        fleet.kill()
        fleet.start()
        sender.run()
        assert stored(fleet) == list(range(1, 3001))


def test_a_broker_without_tls_serves_too(tmp_path):
    with (
        Mosquitto(tmp_path, tls=False) as broker,
        LocalFleet(tmp_path, "--broker", broker.url) as fleet,
        Sender(fleet.enroll("a"), 300, url=broker.url) as sender,
    ):
        sender.run()
        assert stored(fleet) == list(range(1, 301))
        assert fleet.get("devices/a")["device"]["online"]


def test_killing_mosquitto_or_the_fleet_manager_loses_and_doubles_nothing(tmp_path):
    with (
        Mosquitto(tmp_path) as broker,
        RunningFleet(tmp_path / "fleet", "--broker", broker.url) as fleet,
        Sender(fleet.enroll("a"), 2000) as sender,
    ):
        sender.run(until=500)
        broker.kill()
        broker.start()
        sender.run(until=1000)
        fleet.kill()
        fleet.start()
        sender.run()
        assert stored(fleet) == list(range(1, 2001))


def test_messages_published_while_no_fleet_manager_runs_arrive_later(tmp_path):
    """Mosquitto keeps them in its session; without the embedded broker they wait at the device."""
    with Mosquitto(tmp_path) as broker, LocalFleet(tmp_path / "fleet", "--broker", broker.url) as fleet:
        identity = fleet.enroll("a")
        assert fleet.stop() == 0
        with Connection(identity) as connection:
            connection.publish("ev", wire.Batch(boot="b", seq0=1, items=[alert(1)]))
        fleet.start()
        wait_until(lambda: stored(fleet) == [1])
