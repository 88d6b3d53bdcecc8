"""The embedded broker is started, watched and ended with its fleet manager."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from fleet_kit import RunningFleet, composed, wait_until

from edgekit.core.errors import ConfigError, LinkError, UsageError
from edgekit_fleet.broker import supervised
from edgekit_fleet.broker.embedded import NatsServer, find_server, free_port
from edgekit_fleet.broker.nkey import AccountKey
from edgekit_fleet.broker.supervised import Supervised


def broker(folder, port=None, host="127.0.0.1"):
    return Supervised(
        NatsServer(folder, host=host, port=port or free_port(), issuer=AccountKey().public, tls=None)
    )


def is_alive(pid):
    """Whether a process runs; a dead one that nobody has fetched is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_free_port_is_none_that_an_outgoing_connection_could_take():
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1
    assert all(10_000 <= port < lowest for port in ports)
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_it_is_started_again_when_it_ends(tmp_path):
    started = []
    one = broker(tmp_path)
    one._on_start = lambda: started.append(True)
    one.start()
    first = one.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: one.pid not in (None, first) and one.is_healthy(), "a new one")
    one.stop()
    one.stop()
    assert (len(started), one.restarts, one.pid) == (2, 1, None)


def test_a_port_that_is_taken_is_told(tmp_path):
    first = broker(tmp_path / "a")
    first.start()
    port = int(first.program.address.rpartition(":")[2])
    with pytest.raises(LinkError, match="did not start") as caught:
        broker(tmp_path / "b", port).start()
    assert any("address already in use" in reason for reason in caught.value.reasons)
    assert "--broker-port" in caught.value.hint
    first.stop()


def test_a_program_that_is_no_broker_is_told_at_once_and_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_NATS_SERVER", "/bin/false")
    began_s = time.monotonic()
    with pytest.raises(LinkError, match="did not start") as caught:
        broker(tmp_path).start()
    assert "/bin/false" in caught.value.hint
    assert time.monotonic() - began_s < supervised.START_S / 2


def test_a_broker_that_is_not_healthy_is_restarted_once_the_disk_has_room(tmp_path):
    """It remembers a full disk for ever."""
    one, has_room = broker(tmp_path), threading.Event()
    one._has_room = has_room.is_set
    one.start()
    first, one.is_healthy = one.pid, lambda: False
    wait_until(lambda: one._sick_looks > supervised._SICK_LOOKS, "a few looks at it")
    assert (one.pid, one.restarts) == (first, 0)
    assert "health check" in one.problem
    has_room.set()
    wait_until(lambda: one.restarts, "its end")
    del one.is_healthy
    wait_until(lambda: one.is_healthy() and not one.problem, "a new one")
    one.stop()


def test_a_process_that_cannot_be_noted_does_not_run_unwatched(tmp_path):
    """On a full disk: the next one would find its port taken."""
    one = broker(tmp_path)
    one.program.write_files()
    (tmp_path / "broker.pid").mkdir()
    assert not one._begin()
    assert one.pid is None
    assert "cannot be started" in one.problem


def test_the_broker_of_a_killed_fleet_manager_ends(tmp_path):
    fleet = RunningFleet(tmp_path)
    pid = fleet.broker_pid()
    fleet.kill()
    wait_until(lambda: not is_alive(pid), "the broker's end")


def test_an_orphan_is_ended_before_a_new_one_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "edgekit_fleet.broker.supervised.shutil.which", lambda name: None if name == "setpriv" else name
    )
    port = free_port()
    orphan = broker(tmp_path, port)
    orphan.start()
    pid, orphan._end = orphan.pid, lambda: None  # its owner is gone
    orphan.stop()
    heir = broker(tmp_path, port)
    heir.start()
    orphan._process.wait(90)
    assert heir.pid != pid
    heir.stop()


def test_a_stopped_fleet_manager_leaves_no_process(tmp_path):
    with RunningFleet(tmp_path) as fleet:
        pid = fleet.broker_pid()
        assert fleet.stop() == 0
    assert not is_alive(pid)
    assert not (tmp_path / "serve.json").exists()


def test_a_server_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("EDGEKIT_NATS_SERVER", "/nowhere/nats-server")
    with pytest.raises(ConfigError, match="/nowhere/nats-server"):
        find_server()


def test_without_tls_it_listens_on_loopback_only(tmp_path):
    with pytest.raises(UsageError, match="speak for any device"):
        composed(tmp_path, host="0.0.0.0", broker_tls="off").__enter__()


@pytest.mark.parametrize("url", ["redis://host", "mqtt://", "mqtt://host:port"])
def test_a_url_that_is_no_brokers_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="broker"):
        composed(tmp_path, broker=url).__enter__()


def test_ports_found_free_are_kept(tmp_path):
    with composed(tmp_path) as first:
        urls = first.services.settings.url, first.services.settings.broker_url
    with composed(tmp_path) as second:
        assert (second.services.settings.url, second.services.settings.broker_url) == urls
