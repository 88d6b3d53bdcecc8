"""Real brokers and a small fleet for the tests of this folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.core import wire
from edgekit_fleet.broker.embedded import free_port


def nats_path() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


def mosquitto_path() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def wait_for_server(port: int) -> None:
    """Wait until something listens on a port of this machine."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            threading.Event().wait(0.02)
        else:
            return
    raise AssertionError(f"nothing listens on port {port}")


class Broker:
    """One broker process; ``kill`` is kill -9, ``start`` brings it back on the same port and folder."""

    def __init__(self, kind: str, folder: Path, tls: dict[str, Path] | None = None, extra: str = "") -> None:
        self.kind = kind
        self.port = free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{self.port}"
        config = folder / f"{kind}.conf"
        config.write_text((self._nats(tls) if kind == "nats" else self._mosquitto(tls)) + extra)
        self.command = (
            [nats_path(), "-c", str(config)] if kind == "nats" else [mosquitto_path(), "-c", str(config)]
        )

    def _nats(self, tls: dict[str, Path] | None) -> str:
        secure = (
            f"tls {{ cert_file: '{tls['cert']}', key_file: '{tls['key']}',"
            f" ca_file: '{tls['ca']}', verify: true }}"
            if tls
            else ""
        )
        return (
            f"server_name: test\nlisten: 127.0.0.1:{free_port()}\n"
            f"jetstream {{ store_dir: '{self.folder}/js' }}\n"
            f"mqtt {{ listen: '127.0.0.1:{self.port}'\n{secure} }}\n"
        )

    def _mosquitto(self, tls: dict[str, Path] | None) -> str:
        secure = (
            f"cafile {tls['ca']}\ncertfile {tls['cert']}\nkeyfile {tls['key']}\n"
            "require_certificate true\nuse_identity_as_username true\n"
            if tls
            else ""
        )
        return (
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {self.folder}/\nuser root\n{secure}"
        )

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder
        )
        wait_for_server(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class FleetStub:
    """Takes what devices send, commits, then acknowledges; can be deaf, forgetful and rude."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.records: dict[tuple[str, str, int], wire.Record] = {}
        self.passed: dict[tuple[str, str], set[int]] = {}
        self.states: list[wire.Birth] = []
        self.reported: list[wire.Reported] = []
        self.batches: list[wire.Batch] = []
        self.answers = {}
        self.acks = True
        self.repeated = 0
        self.changed = threading.Condition()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id="fleet", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("ek/v1/+/up/#", qos=1)
        self.subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._take
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.subscribed.wait(60)

    def _take(self, _client, _data, message) -> None:
        device, _, leaf = wire.parse_topic(message.topic)
        with self.changed:
            if leaf == "state":
                if message.payload:
                    self.states.append(wire.decode(message.payload, wire.Birth))
            elif leaf == "reported":
                self.reported.append(wire.decode(message.payload, wire.Reported))
            elif leaf == "req":
                request = wire.decode(message.payload, wire.Request)
                answer = self.answers[request.kind](request)
                if answer is not None:
                    self.send(device, "res", answer if isinstance(answer, bytes) else wire.encode(answer))
            else:
                self._commit(device, wire.decode(message.payload, wire.Batch))
            self.changed.notify_all()

    def _commit(self, device: str, batch: wire.Batch) -> None:
        self.batches.append(batch)
        passed = self.passed.setdefault((device, batch.boot), set())
        for seq, item in enumerate(batch.items, batch.seq0):
            if seq in passed:
                self.repeated += 1
                continue
            self.records[device, batch.boot, seq] = item
            passed |= set(range(item.first, item.last + 1)) if isinstance(item, wire.Gap) else {seq}
        watermark = 0
        while watermark + 1 in passed:
            watermark += 1
        if self.acks:
            self.send(device, "ack", wire.encode(wire.Ack(batch.boot, watermark)))

    def send(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        self.client.publish(wire.down(device, leaf), body, qos=1 if retain else 0, retain=retain)

    def wait(self, claim, timeout: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(claim, timeout), "what was waited for did not come"

    def labels(self) -> list[str]:
        return [r.label for r in self.records.values() if isinstance(r, wire.EventRecord)]

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
