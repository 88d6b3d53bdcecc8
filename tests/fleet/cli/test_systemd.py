"""What the fleet manager tells systemd: that it serves, and that it still does its work."""

import socket
from types import SimpleNamespace

import pytest
from fleet_kit import RunningFleet

from edgekit.base.notify import Notifier
from edgekit_fleet.cli.serve import _tell_well


@pytest.fixture
def told(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(30)
        yield bound


def test_it_is_ready_once_it_serves_and_says_that_it_is_well(tmp_path, told, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", told.getsockname())
    with RunningFleet(tmp_path):
        assert told.recv(100) == b"READY=1"
        assert told.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("is_running", [True, False])
def test_it_is_not_well_once_the_thread_that_stores_messages_is_gone(told, is_running):
    notifier = Notifier(told.getsockname())
    _tell_well(SimpleNamespace(ingest=SimpleNamespace(is_running=is_running)), notifier)
    notifier.tell("end")
    notifier.close()
    assert told.recv(100) == (b"WATCHDOG=1" if is_running else b"end")
