"""Real fleets and devices for tests: processes, keys, brokers, connections."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import uvicorn
from browser import wait_until
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.core import wire
from edgekit_fleet.app.application import create_app
from edgekit_fleet.app.compose import Fleet
from edgekit_fleet.app.options import Options
from edgekit_fleet.broker.embedded import free_port
from edgekit_fleet.broker.mosquitto import MosquittoTls, write_files
from edgekit_fleet.identity.authority import Authority
from edgekit_fleet.registry import publisher
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.remote import FleetClient, RemoteRegistry
from edgekit_fleet.store.clock import unix_ms

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0


@contextlib.contextmanager
def composed(data, **options):
    """A fleet put together in this process, not started."""
    fleet = Fleet(Options(data=data, port=0, broker_port=0, **options))
    try:
        yield fleet
    finally:
        fleet.stop()


class RunningFleet:
    """``edgekit-fleet serve`` as a process of its own."""

    def __init__(self, data, *options):
        self.data = data
        self.options = options
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "edgekit_fleet.cli.main",
            "serve",
            "--json",
            "--port",
            "0",
            "--broker-port",
            "0",
        ]
        with (self.data / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data", str(self.data), *self.options],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        line = self.process.stdout.readline()
        assert line, (self.data / "log").read_text()
        self.ready = json.loads(line)
        token = Path(self.ready["admin_token_file"]).read_text().strip()
        self.client = httpx.Client(
            base_url=self.ready["url"],
            headers={"Authorization": f"Bearer {token}"},
            verify=_trusting(self.ready["ca"]),
            timeout=PATIENCE_S,
        )
        self._appoint_publisher()

    def _appoint_publisher(self):
        """Give the fleet a root of trust at its first start: without one it enrols no device."""
        folder = self.data.with_name(f"{self.data.name}-publisher")
        if folder.exists():
            return
        ca = Path(self.ready["ca"]) if self.ready["ca"] else None
        token = self.client.headers["Authorization"].removeprefix("Bearer ")
        registry = RemoteRegistry(FleetClient(self.ready["url"], token, ca))
        self.keyring = Keyring.make(folder, registry.online_keys(), unix_ms())
        publisher.install_root(self.keyring, registry, unix_ms())

    def kill(self):
        """kill -9, and wait for the end."""
        self.process.kill()
        self._ended()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def _ended(self):
        code = self.process.wait(PATIENCE_S)
        self.process.stdout.close()
        self.client.close()
        return code

    def broker_pid(self):
        return int((self.data / "broker" / "broker.pid").read_text())

    def get(self, path, **query):
        answer = self.client.get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, **body):
        answer = self.client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def claim(self, uses=1):
        return self.post("claims", uses=uses)["token"]

    def enroll(self, name, claim=None):
        identity = Identity()
        answer = self.client.post(
            "/api/v1/enroll",
            content=wire.encode(wire.EnrollRequest(claim or self.claim(), identity.csr(), name)),
        )
        assert answer.status_code == 200, answer.text
        return identity.enrolled(
            wire.decode(answer.content, wire.EnrollResponse), self.data / "devices" / name
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        code = self.stop() if self.process.poll() is None else self._ended()
        assert code == 0, (self.data / "log").read_text()


def _trusting(ca):
    if not ca:
        return True
    import ssl

    return ssl.create_default_context(cafile=ca)


class LocalFleet(RunningFleet):
    """A fleet in this process: starts in a fraction of the time, and cannot be killed."""

    def start(self):
        self._stack = contextlib.ExitStack()
        words = dict(zip(self.options[::2], self.options[1::2], strict=True))
        options = {name.lstrip("-").replace("-", "_"): value for name, value in words.items()}
        self.fleet = self._stack.enter_context(composed(self.data, **options))
        self.fleet.start()
        token = self.fleet.admin_token_file.read_text().strip()
        settings = self.fleet.services.settings
        self.ready = {"url": settings.url, "broker_url": settings.broker_url, "ca": ""}
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", self.fleet.port)))
        app = create_app(self.fleet.services)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        self.client = httpx.Client(
            base_url=settings.url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S
        )
        self._appoint_publisher()

    def stop(self):
        self.client.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        self._stack.close()
        return 0

    def __exit__(self, *_):
        self.stop()


class Identity:
    """A device's key, and what enrolment gave it."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())

    def csr(self, name="whatever"):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, hashes.SHA256())
        )
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def enrolled(self, answer, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.answer, self.device, self.folder = answer, answer.device, folder
        pem = serialization.Encoding.PEM
        (folder / "device.key").write_bytes(
            self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (folder / "device.crt").write_text(answer.certificate)
        (folder / "ca.crt").write_text(answer.ca)
        return self


class Connection:
    """A plain MQTT connection as a device makes it; what arrives is in ``got``."""

    def __init__(self, identity, *, client_id=None, url=None, certificate=True):
        self.identity = identity
        self.got = []
        self.published = 0
        self.suback = None
        self.refusal = None
        self.connected = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id or identity.device)
        self.client.on_connect = self._connect
        self.disconnects = 0
        self.client.on_disconnect = self._disconnect
        self.client.on_message = lambda _c, _d, message: self.got.append((message.topic, message.payload))
        self.client.on_subscribe = self._subscribed
        self.client.on_publish = self._published
        self.client.reconnect_delay_set(1, 1)
        scheme, _, address = (url or identity.answer.broker_url).partition("://")
        if scheme == "mqtts":
            files = (
                [str(identity.folder / name) for name in ("device.crt", "device.key")] if certificate else []
            )
            self.client.tls_set(str(identity.folder / "ca.crt"), *files)
        host, _, port = address.rpartition(":")
        self._address = host, int(port)

    def _connect(self, _client, _data, _flags, reason, _properties):
        if reason.is_failure:
            self.refusal = str(reason)
        else:
            self.connected.set()

    def _disconnect(self, *_):
        self.connected.clear()
        self.disconnects += 1

    def _subscribed(self, _client, _data, _mid, reasons, _properties):
        self.suback = [not reason.is_failure for reason in reasons]

    def _published(self, *_):
        self.published += 1

    def will(self, birth):
        self.client.will_set(wire.up(self.identity.device, "state"), wire.encode(birth), 1, True)

    def open(self):
        self.client.connect_async(*self._address, keepalive=10)
        self.client.loop_start()
        assert self.connected.wait(PATIENCE_S), self.refusal
        return self

    def subscribe(self, topic):
        self.suback = None
        self.client.subscribe(topic, 0)
        return wait_until(lambda: self.suback, "suback")[0]

    def publish(self, leaf, message, *, device=None, qos=1, retain=False):
        body = message if isinstance(message, bytes) else wire.encode(message)
        sent = self.client.publish(wire.up(device or self.identity.device, leaf), body, qos, retain)
        if qos:
            sent.wait_for_publish(PATIENCE_S)

    def answers(self, leaf):
        topic = wire.down(self.identity.device, leaf)
        return [payload for where, payload in list(self.got) if where == topic]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self):
        return self.open()

    def __exit__(self, *_):
        self.close()


def alert(number):
    """A durable message with a number in it."""
    return wire.Alert(
        mono_ns=number, unix_ms=time.time_ns() // 1_000_000, level="info", code="test", message=str(number)
    )


class Sender:
    """A device that sends ``count`` alerts and goes back to the watermark until all are committed."""

    def __init__(self, identity, count, *, boot="boot-1", size=10, url=None, conn=0):
        self.boot, self.count, self.size = boot, count, size
        self.watermark = 0
        self.resent = 0
        self.connection = Connection(identity, url=url)
        self.connection.client.on_message = self._heard
        self.connection.client.on_connect = self._connected
        self.conn = conn
        self._next = 1
        self._lock = threading.Lock()
        self._moved_s = time.monotonic()

    def _connected(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            return
        device = self.connection.identity.device
        self.conn += 1
        client.subscribe(wire.down(device, "#"), 0)
        client.publish(
            wire.up(device, "state"), wire.encode(wire.Birth(online=True, boot=self.boot, conn=self.conn)), 1
        )
        with self._lock:
            self._next = self.watermark + 1
        self.connection.connected.set()

    def _heard(self, _client, _data, message):
        if message.topic.endswith("/ack"):
            ack = wire.decode(message.payload, wire.Ack)
            with self._lock:
                if ack.boot == self.boot and ack.watermark > self.watermark:
                    self.watermark = ack.watermark
                    self._moved_s = time.monotonic()

    def step(self, window=200):
        """Send the next batch, if the window has room; go back when nothing moves."""
        with self._lock:
            if time.monotonic() - self._moved_s > 2:
                self._next, self._moved_s = self.watermark + 1, time.monotonic()
                self.resent += 1
            first = max(self._next, self.watermark + 1)
            last = min(first + self.size - 1, self.count)
            if (
                first > self.count
                or first - self.watermark > window
                or not self.connection.connected.is_set()
            ):
                return False
            self._next = last + 1
        items = [alert(number) for number in range(first, last + 1)]
        topic = wire.up(self.connection.identity.device, "ev")
        self.connection.client.publish(
            topic,
            wire.encode(wire.Batch(boot=self.boot, seq0=first, items=items, lowest=self.watermark + 1)),
            1,
        )
        return True

    def run(self, until=None, patience_s=90):
        """Send until the watermark is there."""
        goal = self.count if until is None else until
        deadline_s = time.monotonic() + patience_s
        while self.watermark < goal:
            assert time.monotonic() < deadline_s, f"watermark {self.watermark} of {goal}"
            if not self.step():
                time.sleep(0.01)

    def __enter__(self):
        self.connection.open()
        return self

    def __exit__(self, *_):
        self.connection.close()


class Mosquitto:
    """Debian's mosquitto with the files that the fleet manager writes for it."""

    def __init__(self, folder, *, tls=True):
        self.folder = folder
        self.port = free_port()
        self.url = f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{self.port}"
        files = None
        if tls:
            authority = Authority(folder / "fleet" / "ca")
            self.crl = folder / "crl.pem"
            self.crl.write_text(authority.revocation_list([]))
            certificate, key = authority.server_files("mosquitto", ["127.0.0.1"])
            files = MosquittoTls(certificate, key, authority.certificate_path, self.crl)
        self.config = write_files(folder / "mosquitto", host="127.0.0.1", port=self.port, tls=files)
        if os.getuid() == 0:  # it would drop to a user who may not read the test's folder
            with self.config.open("a") as file:
                file.write("user root\n")
        self.start()

    def start(self):
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(self.config)], stdout=log, stderr=log)
        wait_until(self._listens, "mosquitto")

    def _listens(self):
        assert self.process.poll() is None, (self.folder / "mosquitto.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
