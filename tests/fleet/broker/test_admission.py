"""Who may connect is answered from memory, whatever the rest of the fleet manager is busy with."""

import contextlib
import threading
import time

from fleet_kit import Connection, LocalFleet, Sender, alert

from edgekit.core import wire
from edgekit_fleet.broker.callout import WAIT_S, Callout
from edgekit_fleet.broker.nkey import AccountKey, read_claims
from edgekit_fleet.broker.strangers import Strangers
from edgekit_fleet.ingest import jetstream

NOW_MS = 1_790_000_000_000


@contextlib.contextmanager
def stuck(database):
    """Hold a database's only writer, as a slow disk or a long commit does."""
    release, held = threading.Event(), threading.Event()

    def hold():
        with database.transaction():
            held.set()
            release.wait(90)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(90)
    try:
        yield
    finally:
        release.set()
        thread.join()


def test_a_device_connects_while_nothing_can_be_stored(tmp_path):
    """Once the question was answered by the thread that commits: 5,828 of 10,000 good devices refused."""
    with LocalFleet(tmp_path) as fleet:
        identity = fleet.enroll("a")
        with stuck(fleet.fleet.services.database), Connection(identity) as connection:
            connection.publish("ev", wire.Batch(boot="b", seq0=1, items=[alert(1)]))
            assert connection.refusal is None
            assert fleet.fleet.intake.counters["messages"] == 0


def test_acknowledgements_do_not_wait_behind_births(tmp_path):
    """Ten thousand devices that reconnect send as many births; the messages of the others go on."""
    with LocalFleet(tmp_path) as fleet, Sender(fleet.enroll("a"), 10) as sender:
        sender.run(until=5)
        seen, pause = [], threading.Event()

        def slow(_device, _birth):
            seen.append(None)
            pause.wait(0.001)

        fleet.fleet.services.hooks.on_state.append(slow)
        births, storm = 2 * jetstream.BATCH, Connection(fleet.enroll("b"))
        storm.client.max_inflight_messages_set(0)
        with storm:
            for conn in range(births):
                topic = wire.up("b", "state")
                storm.client.publish(topic, wire.encode(wire.Birth(online=True, boot="b", conn=conn + 1)), 1)
            sender.run(until=10)
            assert len(seen) < births


def question(issued_s, **asked):
    server = AccountKey()
    body = {"user_nkey": "U", "server_id": {"id": "S"}, "client_info": {"mqtt_id": "a"}, **asked}
    return server.sign({"nats": body}, issued_s).encode()


def test_an_answer_that_came_too_late_is_counted_apart_from_refusals():
    callout = Callout(
        AccountKey(), lambda device: device == "a", lambda _: False, Strangers(), needs_certificate=False
    )
    now_s = int(time.time())
    for asked in (now_s, now_s - WAIT_S - 2):
        assert not read_claims(callout.answer(question(asked)).decode())["nats"]["error"]
    callout.answer(question(now_s, client_info={"mqtt_id": "b"}))
    callout.answer(question(now_s, client_info={"mqtt_id": "/"}))
    assert callout.late == 1
    assert callout.refused == {"device": 1, "certificate": 1}


def test_who_is_welcome_is_known_without_the_disk_and_forgotten_at_a_revocation(services, monkeypatch):
    devices = services.devices
    devices.enroll("a", NOW_MS, None)
    assert devices.is_welcome("a")

    def read():
        raise AssertionError("the disk was asked")

    with monkeypatch.context() as patch:
        patch.setattr(services.database, "read", read)
        assert devices.is_welcome("a")
    devices.revoke("a")
    assert not devices.is_welcome("a")
    devices.restore("a")
    assert devices.is_welcome("a")


def test_a_revocation_while_a_question_is_answered_is_not_forgotten(services, monkeypatch):
    devices, read = services.devices, services.database.read
    devices.enroll("a", NOW_MS, None)

    def revoked_meanwhile():
        monkeypatch.setattr(services.database, "read", read)
        reader = read()
        return _Then(reader, lambda: devices.revoke("a"))

    monkeypatch.setattr(services.database, "read", revoked_meanwhile)
    assert devices.is_welcome("a")
    assert not devices.is_welcome("a")


class _Then:
    """A reader that lets something happen when it has read."""

    def __init__(self, reader, then):
        self._reader, self._then = reader, then

    def __enter__(self):
        return self._reader.__enter__()

    def __exit__(self, *error):
        self._reader.__exit__(*error)
        self._then()
