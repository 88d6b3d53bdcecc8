"""A mosquitto that the fleet manager starts itself keeps what the embedded broker promises."""

import ssl
import time

import pytest
from fleet_kit import Connection, LocalFleet, RunningFleet, Sender, composed, wait_until
from test_embedded import is_alive
from test_permissions import birth, refused

from edgekit.core import wire
from edgekit.core.errors import ConfigError, UsageError
from edgekit_fleet.app import compose
from edgekit_fleet.app.brokers import NATS_DEVICES
from edgekit_fleet.broker import own_mosquitto

BROKER = ("--broker", "mosquitto")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """One whose housekeeping never comes: what is promised at once must not wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_TICK_S", 3600)
        with LocalFleet(tmp_path_factory.mktemp("mosquitto"), *BROKER) as running:
            yield running


def is_barred(identity):
    """Whether the broker refuses a device's certificate; one that it lets in and closes is not barred."""
    connection = Connection(identity)
    return refused(connection) and not connection.connected.is_set()


def test_a_revoked_device_loses_its_connection_within_a_second(fleet):
    """Measured at the socket, as with the embedded broker; the best of three counts."""
    took_s = []
    for name in ("barred-1", "barred-2", "barred-3"):
        identity = fleet.enroll(name)
        with Connection(identity) as connection:
            before = connection.disconnects
            began_s = time.monotonic()
            fleet.post(f"devices/{name}/revoke")
            wait_until(lambda: connection.disconnects > before, "the end of the connection", 60)  # noqa: B023
            took_s.append(time.monotonic() - began_s)
            wait_until(lambda: is_barred(identity), "the list is read")  # noqa: B023
    assert min(took_s) < 1
    with Connection(fleet.enroll("bystander")):
        pass


def test_a_restored_device_connects_again(fleet):
    identity = fleet.enroll("back")
    fleet.post("devices/back/revoke")
    wait_until(lambda: is_barred(identity), "the list is read")
    fleet.post("devices/back/restore")
    wait_until(lambda: not refused(Connection(identity)), "it is let in")


def test_a_deleted_device_is_out_and_its_name_is_free_for_another_key_only(fleet):
    old = fleet.enroll("moved")
    with Connection(old) as connection:
        assert fleet.client.delete("/api/v1/devices/moved").status_code == 204
        wait_until(lambda: connection.disconnects, "the end of the connection")
    old.folder = old.folder.rename(old.folder.with_name("moved-before"))
    with Connection(fleet.enroll("moved")):
        wait_until(lambda: is_barred(old), "its certificate is barred")


def test_a_machine_with_a_new_disk_bars_the_certificate_of_before(fleet):
    old = fleet.enroll("disk")
    claim = fleet.post("claims", uses=1, device="disk")["token"]
    with Connection(old) as connection:
        old.folder = old.folder.rename(old.folder.with_name("disk-before"))
        with Connection(fleet.enroll("disk", claim)):
            wait_until(lambda: connection.disconnects, "the end of the old connection")
            wait_until(lambda: is_barred(old), "its certificate is barred")


def test_a_device_cannot_take_anothers_session(fleet):
    taker, victim = fleet.enroll("taker"), fleet.enroll("victim")
    with Connection(victim) as connection:
        with Connection(taker, client_id="victim"):
            connection.publish("state", birth(boot="still here"))
        assert connection.disconnects == 0


def test_a_device_never_gets_the_fleet_managers_name(fleet):
    assert fleet.enroll("edgekit-fleet").device != "edgekit-fleet"


def test_what_the_broker_closes_is_on_the_devices_page(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "_TICK_S", 0.1)
    with LocalFleet(tmp_path, *BROKER) as fleet:
        identity = fleet.enroll("a")
        for topic, body in ((wire.up("b", "ev"), b"x"), (wire.up("a", "ev"), bytes(5 << 20))):
            with Connection(identity) as connection:
                before = connection.disconnects
                connection.client.publish(topic, body, 1)
                wait_until(lambda: connection.disconnects > before, "the broker closes it")  # noqa: B023

        def turned_away():
            return {one["reason"] for one in fleet.get("devices/a")["turned_away"]} >= {
                "foreign topic",
                "too large",
            }

        wait_until(turned_away, "both are counted")


def test_it_ends_with_a_killed_fleet_manager(tmp_path):
    fleet = RunningFleet(tmp_path, *BROKER)
    pid = fleet.broker_pid()
    fleet.kill()
    wait_until(lambda: not is_alive(pid), "the broker's end")


def test_devices_of_the_embedded_broker_go_on_without_enrolling_again(tmp_path):
    """And back: same port, same certificates."""
    with LocalFleet(tmp_path) as fleet:
        identity = fleet.enroll("a")
        with Sender(identity, 20) as sender:
            sender.run()
    for options in (BROKER, ()):
        with LocalFleet(tmp_path, *options) as fleet, Sender(identity, 20, boot=str(options)) as sender:
            sender.run()
            with Connection(identity) as connection:
                connection.subscribe(wire.down("a", "#"))


def test_a_device_that_the_database_has_lost_is_listed_and_can_be_taken_back(fleet):
    lost = fleet.enroll("forgotten")
    devices = fleet.fleet.services.devices
    with devices._database.transaction() as sql:
        sql.execute("DELETE FROM certificate WHERE device = 'forgotten'")
        sql.execute("DELETE FROM device WHERE id = 'forgotten'")
    devices._welcome.discard("forgotten")
    with Connection(lost) as connection:
        connection.subscribe(wire.down("forgotten", "#"))
        connection.publish("state", birth())
        wait_until(lambda: [one["device"] for one in fleet.get("strangers")] == ["forgotten"], "it is listed")
        assert fleet.post("strangers/forgotten/adopt")["state"] == "approved"
        connection.publish("state", birth(2))
        wait_until(lambda: connection.answers("ack"), "it is heard")


def test_a_renewed_certificate_is_used_without_a_restart(fleet):
    before = fleet.fleet.broker.child.pid
    served = fleet.fleet.authority.server_files("broker", fleet.fleet.options.hosts)[0].read_text()
    fleet.fleet._reload_broker()

    def presented():
        host, _, port = fleet.ready["broker_url"].removeprefix("mqtts://").rpartition(":")
        return ssl.get_server_certificate((host, int(port)))

    wait_until(lambda: presented().split() == served.split(), "the new certificate")
    assert fleet.fleet.broker.child.pid == before


def test_its_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(own_mosquitto, "MAX_LOG_BYTES", 1000)
    with LocalFleet(tmp_path, *BROKER) as fleet:
        identity = fleet.enroll("a")
        old = tmp_path / "broker" / "mosquitto.log.1"

        def connect():
            with Connection(identity):
                return old.exists()

        wait_until(connect, "a new log")
        wait_until((tmp_path / "broker" / "mosquitto.log").exists, "the new log")


def test_its_absence_and_missing_tls_are_said_with_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="certificates"):
        composed(tmp_path, broker="mosquitto", broker_tls="off").__enter__()
    monkeypatch.setattr(own_mosquitto, "PROGRAM", "no-mosquitto")
    with pytest.raises(ConfigError, match="no mosquitto on this machine") as caught:
        composed(tmp_path, broker="mosquitto").__enter__()
    assert "apt-get install mosquitto" in caught.value.hint


def test_thousands_of_devices_on_the_embedded_broker_are_advised_to_change(tmp_path):
    with composed(tmp_path) as fleet:
        assert fleet.broker.advice(NATS_DEVICES - 1) == []
        assert "--broker mosquitto" in fleet.broker.advice(10_000)[0]
    with composed(tmp_path, broker="mosquitto") as fleet:
        assert fleet.broker.advice(10_000) == []
