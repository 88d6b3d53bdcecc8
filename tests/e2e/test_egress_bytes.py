"""With ``egress = ["counts"]`` no label is in any byte that leaves, and the ledger has each byte of payload.

Every way out to a broker is listened to at its socket, by a proxy that keeps what passes: a sink's own
broker in ``edgekit run`` and in an agent's worker, and the agent's own link.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from brokers import Broker, mosquitto_path
from bundles import LABELS, make_bundle, pipeline_toml

from edgekit.agent.config import OutboxTable, parse_agent_config
from edgekit.agent.offline_rollback import read_ledger
from edgekit.agent.supervisor.egress import Egress
from edgekit.core import wire
from edgekit.sync.address import SystemClock
from edgekit.sync.mqtt import Handlers, Link

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")


class Tap:
    """Passes connections on to a broker and keeps what the client sends, connection by connection."""

    def __init__(self, port: int) -> None:
        self._target, self.streams = port, list[bytearray]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
                stream = bytearray()
                self.streams.append(stream)
                threading.Thread(target=self._pass, args=(client, broker, stream), daemon=True).start()
                threading.Thread(target=self._pass, args=(broker, client, bytearray()), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def payloads(self) -> list[bytes]:
        """Return the payload of every PUBLISH."""
        return [payload for stream in self.streams for payload in published(bytes(stream))]

    def close(self) -> None:
        self._server.close()


def published(stream: bytes) -> list[bytes]:
    """Return the payloads of an MQTT 3.1.1 client's PUBLISH packets (chapter 3.3 of the standard)."""
    found, at = [], 0
    while at < len(stream):
        kind, length, shift = stream[at], 0, 0
        while True:
            at += 1
            length |= (stream[at] & 127) << shift
            shift += 7
            if stream[at] < 128:
                break
        body, at = stream[at + 1 : at + 1 + length], at + 1 + length
        if kind >> 4 == 3:
            start = 2 + int.from_bytes(body[:2], "big") + (2 if kind & 6 else 0)
            found.append(body[start:])
    return found


@pytest.fixture
def tap(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    broker.start()
    made = Tap(broker.port)
    yield made
    made.close()
    broker.kill()


def check(tap: Tap, state: Path, destination: str) -> None:
    payloads = tap.payloads()
    assert payloads
    for stream in tap.streams:
        for label in LABELS.split():
            assert label.encode() not in stream
    rows = [row for row in read_ledger(state, 0) if row["destination"] == destination]
    left = [row for row in rows if row["decision"] == "passed"]
    assert sum(row["bytes"] for row in left) == sum(map(len, payloads))
    assert "counts" in {row["data_class"] for row in left}
    assert "labels" not in {row["data_class"] for row in left}
    assert "labels" in {row["data_class"] for row in rows if row["decision"] == "refused"}


def sinks(tap: Tap) -> str:
    return "".join(
        f'[[sink]]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:{tap.port}"\ntopic = "{what}"\nwhat = "{what}"\n'
        for what in ("events", "results")
    )


def edgekit(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_a_sinks_own_broker_in_a_run(tap, tmp_path):
    make_bundle(tmp_path / "motion")
    (tmp_path / "p.toml").write_text(pipeline_toml(egress="counts") + sinks(tap))
    state = tmp_path / "state"
    process = edgekit("run", tmp_path / "p.toml", "--frames", 50, "--json", EDGEKIT_STATE=str(state))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (broker,) = json.loads(out)["brokers"]
    assert broker["sent"] == len(tap.payloads()) >= 51
    check(tap, state, f"127.0.0.1:{tap.port}")


def test_a_sinks_own_broker_in_an_agent(tap, tmp_path):
    make_bundle(tmp_path / "first")
    (tmp_path / "p.toml").write_text(pipeline_toml(egress="counts") + sinks(tap))
    (tmp_path / "agent.toml").write_text(
        '[agent]\nstate = "state"\n[[pipeline]]\nfile = "p.toml"\ninitial = "first"\n'
    )
    agent = edgekit("agent", "run", "--config", tmp_path / "agent.toml")
    try:
        until_s = time.monotonic() + 120
        while len(tap.payloads()) < 100:
            assert time.monotonic() < until_s
            assert agent.poll() is None, agent.communicate()
            time.sleep(0.1)
    finally:
        agent.send_signal(signal.SIGTERM)
        _, err = agent.communicate(timeout=120)
    assert agent.returncode == 0, err
    check(tap, tmp_path / "state", f"127.0.0.1:{tap.port}")


def test_the_agents_own_link(tap, tmp_path):
    state, clock = tmp_path / "state", SystemClock()
    (tmp_path / "p.toml").write_text(pipeline_toml(egress="counts"))
    plans = parse_agent_config('[agent]\npipelines = ["p.toml"]', folder=tmp_path).pipelines
    egress = Egress(state, plans, OutboxTable(), clock)
    handlers = Handlers(
        birth=lambda: wire.Birth(online=True, boot="", conn=0),
        reported=lambda: wire.Reported(boot="b", version=1, desired=0),
        desired=lambda _: None,
        command=lambda _: None,
        connection=lambda _: None,
        sent=egress.sent,
    )
    link = Link(f"mqtt://127.0.0.1:{tap.port}", "cam", egress.outbox, handlers, first_delay_s=0.01)
    link.start()
    head = {"mono_ns": 1, "unix_ms": 2, "pipeline": "motor", "model": "motion", "version": "1.0.0"}
    for number in range(20):
        event = wire.EventRecord(**head, kind="started", label="moving", count=1, total=number, score=0.5)
        egress.put(event, "motor")
    report = wire.MetricReport(
        **head, variant="null", period_s=1, frames=9, labels={"moving": 5, "still": 4}, total=9
    )
    egress.put(report, "motor")
    egress.alert("warning", "x", "something", "motor")
    until_s = time.monotonic() + 60
    while link.counters()["messages"] < 22:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    link.stop(30.0)
    egress.close()
    check(tap, state, "fleet")
