"""Many connections: bounded, in memory too, and others are answered meanwhile."""

import contextlib
import resource
import socket
from pathlib import Path

import httpx
import pytest
from fleet_kit import RunningFleet, wait_until

from edgekit_fleet.cli.listening import BoundedListener


def resident_mb(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with RunningFleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture(scope="module")
def silent(fleet):
    """A connection that asks for nothing more; it is made first, for its time is long."""
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", int(fleet.ready["url"].rpartition(":")[2])))
        connection.send(b"GET /")
        yield connection


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_crowd_of_silent_connections_costs_little_memory_and_keeps_nobody_out(fleet, count):
    with contextlib.ExitStack() as stack:
        before_mb = resident_mb(fleet.process.pid)
        port = int(fleet.ready["url"].rpartition(":")[2])
        for number in range(count):
            connection = stack.enter_context(socket.socket())
            connection.bind((f"127.0.0.{2 + number % 50}", 0))
            with contextlib.suppress(OSError):
                connection.connect(("127.0.0.1", port))
                connection.send(b"GET / HT")
        assert resident_mb(fleet.process.pid) - before_mb < 50
        stack.close()
        wait_until(lambda: httpx.get(f"{fleet.ready['url']}/api/v1/health").status_code == 200, "an answer")
        assert resident_mb(fleet.process.pid) - before_mb < 50


def test_one_address_takes_at_most_half_of_the_connections():
    with BoundedListener(socket.AF_INET, 4) as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        listener.settimeout(5)

        def connect(source):
            client = stack.enter_context(socket.socket())
            client.bind((source, 0))
            client.connect(listener.getsockname())
            return stack.enter_context(listener.accept()[0])

        first = connect("127.0.0.2")
        connect("127.0.0.2")
        with pytest.raises(BlockingIOError):
            connect("127.0.0.2")
        connect("127.0.0.3")
        connect("127.0.0.4")
        with pytest.raises(BlockingIOError):
            connect("127.0.0.5")
        first.close()
        first.close()
        connect("127.0.0.5")


def test_a_connection_that_never_asks_is_closed(silent):
    silent.settimeout(30)
    assert silent.recv(1) == b"", "closed by the server"
