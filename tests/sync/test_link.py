from __future__ import annotations

import datetime as dt
import gc
import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from brokers import Broker, FleetStub, free_port, mosquitto_path, nats_path

from edgekit.core import wire
from edgekit.core.errors import ConfigError, LinkError, ServerError
from edgekit.sync.address import SystemClock
from edgekit.sync.mqtt import Handlers, Link, Tls
from edgekit.sync.outbox import Outbox
from edgekit.sync.retry_timer import RetryTimer

DEVICE = "cam-1"
BROKERS = [
    pytest.param("nats", marks=pytest.mark.skipif(not nats_path(), reason="no nats-server")),
    pytest.param("mosquitto", marks=pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")),
]


def event(number: int) -> wire.EventRecord:
    return wire.EventRecord(
        mono_ns=number, unix_ms=number, pipeline="door", model="m", version="1.0.0", kind="appear",
        label=f"e{number}",
    )  # fmt: skip


def until(claim, timeout: float = 60.0) -> None:
    """Wait for what nobody announces."""
    tick = threading.Event()
    for _ in range(int(timeout / 0.02)):
        if claim():
            return
        tick.wait(0.02)
    raise AssertionError("what was waited for did not come")


class Owner:
    """Notes what the link tells it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.desired: list[bytes] = []
        self.commands: list[wire.Command] = []
        self.connections: list[bool] = []
        self.sent: list[tuple[bytes, list[bytes]]] = []

    def handlers(self) -> Handlers:
        return Handlers(
            birth=lambda: wire.Birth(online=True, boot="", conn=0, agent="0.1.0", desired=3),
            reported=lambda: wire.Reported(boot="b", version=1, desired=3),
            desired=lambda body: self.note(self.desired, body),
            command=lambda command: self.note(self.commands, command),
            connection=lambda up: self.note(self.connections, up),
            sent=lambda body, records: self.note(self.sent, (body, records)),
        )

    def note(self, where: list, what: object) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, claim, timeout: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(claim, timeout), "what was waited for did not come"


class Device:
    def __init__(self, folder: Path, url: str, **options) -> None:
        self.owner = Owner()
        self.outbox = Outbox(folder / "outbox.sqlite", SystemClock(), commit_delay_s=0.01)
        self.link = Link(
            url, DEVICE, self.outbox, self.owner.handlers(), random=lambda: 0.02, max_delay_s=5.0, **options
        )
        self.link.start()

    def stop(self) -> None:
        self.link.stop(60.0)
        self.outbox.close()


@pytest.fixture(params=BROKERS)
def broker(request, tmp_path):
    found = Broker(request.param, tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def fleet(broker):
    found = FleetStub(broker.port)
    yield found
    found.stop()


@pytest.fixture
def device(broker, fleet, tmp_path):
    found = Device(tmp_path / "device", broker.url)
    yield found
    found.stop()


def test_a_device_is_born_sends_and_frees_what_the_fleet_committed(device, fleet):
    fleet.wait(lambda: fleet.states and fleet.reported)
    born = fleet.states[-1]
    assert (born.online, born.boot, born.conn, born.agent, born.desired) == (
        True, device.outbox.boot, 1, "0.1.0", 3,
    )  # fmt: skip
    for number in range(1, 501):
        device.outbox.put(event(number))
    fleet.wait(lambda: len(fleet.records) == 500)
    until(lambda: device.outbox.watermark == 500)
    assert sorted(fleet.labels()) == sorted(f"e{n}" for n in range(1, 501))
    device.link.report()
    fleet.wait(lambda: len(fleet.reported) == 2)
    device.link.announce()
    fleet.wait(lambda: len(fleet.states) >= 2)


def test_what_waited_for_the_link_is_historical_and_the_rest_is_not(broker, fleet, tmp_path):
    outbox = Outbox(tmp_path / "device" / "outbox.sqlite", SystemClock(), commit_delay_s=0)
    outbox.put(event(1))
    outbox.close()
    device = Device(tmp_path / "device", broker.url)
    fleet.wait(lambda: len(fleet.records) == 1)
    device.outbox.put(event(2))
    fleet.wait(lambda: len(fleet.records) == 2)
    device.stop()
    assert {b.seq0: b.historical for b in fleet.batches} == {1: True, 2: False}


def test_goodbye_is_said_and_a_lost_device_is_told_by_its_will(broker, fleet, tmp_path):
    device = Device(tmp_path / "device", broker.url)
    fleet.wait(lambda: fleet.states and fleet.states[-1].online)
    device.stop()
    fleet.wait(lambda: not fleet.states[-1].online)
    assert fleet.states[-1].conn == 1
    again = Device(tmp_path / "device", broker.url)
    fleet.wait(lambda: fleet.states[-1].online)
    sock = again.link._connection.client.socket()
    sock.shutdown(socket.SHUT_RDWR)
    fleet.wait(lambda: any(not s.online and s.conn == 2 for s in fleet.states))
    fleet.wait(lambda: fleet.states[-1].online and fleet.states[-1].conn == 3)
    again.stop()
    assert again.owner.connections == [True, False, True, False]


def test_the_retained_desired_state_comes_on_connect_byte_for_byte(broker, fleet, tmp_path):
    text = b'{"device": "cam-1",  "version": 7, "models": {}, "unknown": 1}'
    fleet.send(DEVICE, "desired", text, retain=True)
    device = Device(tmp_path / "device", broker.url)
    device.owner.wait(lambda: device.owner.desired == [text])
    fleet.send(DEVICE, "cmd", wire.encode(wire.Command("c1", "report", 2**50)))
    device.owner.wait(lambda: [c.id for c in device.owner.commands] == ["c1"])
    device.stop()


def test_malformed_messages_are_counted_and_survived(device, fleet):
    device.owner.wait(lambda: device.owner.connections)
    rude = [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"boot": 3}', b"EKC1", os.urandom(200)]
    for leaf in ("ack", "cmd", "res", "nonsense"):
        for body in rude:
            fleet.send(DEVICE, leaf, body)
    fleet.send(DEVICE, "desired", b"x" * 9000)
    fleet.send(DEVICE, "ack", wire.encode(wire.Ack("another", 5)))
    fleet.send(DEVICE, "ack", wire.encode(wire.Ack(device.outbox.boot, 10**9)))
    fleet.send(DEVICE, "res", wire.encode(wire.Response(99)))
    fleet.send(DEVICE, "cmd", wire.encode(wire.Command("last", "report", 1)))
    device.owner.wait(lambda: device.owner.commands)
    expected = {"malformed": 4 * len(rude) + 1, "bad_acks": 2, "unanswered": 1}
    # NATS may give the first ones of a new subscription last
    until(lambda: sum(map(device.link.counters().__getitem__, expected)) >= sum(expected.values()))
    assert {name: device.link.counters()[name] for name in expected} == expected
    assert device.owner.desired == []
    device.outbox.put(event(1))
    fleet.wait(lambda: len(fleet.records) == 1)


def test_requests_find_their_answers(device, fleet):
    device.owner.wait(lambda: device.owner.connections)
    fleet.answers["time"] = lambda r: wire.Response(r.id, {"unix_ms": 123})
    fleet.answers["desired"] = lambda r: wire.Response(r.id, error="no such thing")
    fleet.answers["renew"] = lambda _: None
    assert device.link.request("time", {}).result == {"unix_ms": 123}
    with pytest.raises(ServerError, match="no such thing"):
        device.link.request("desired", {})
    with pytest.raises(LinkError, match="did not answer"):
        device.link.request("renew", {"csr": "x"}, timeout_s=0.05)


def test_a_piece_of_a_blob_is_an_answer_where_http_is_blocked(device, fleet):
    device.owner.wait(lambda: device.owner.connections)
    blob = os.urandom(wire.CHUNK_BYTES)
    fleet.answers["chunk"] = lambda request: wire.Chunk(request.id, request.args["offset"], blob)
    args = {"sha256": hashlib.sha256(blob).hexdigest(), "offset": 1 << 20, "length": len(blob)}
    piece = device.link.request("chunk", args)
    assert (piece.offset, piece.data) == (1 << 20, blob)


def test_a_question_without_a_link_fails_at_once(tmp_path):
    device = Device(tmp_path, f"mqtt://127.0.0.1:{free_port()}")
    with pytest.raises(LinkError, match="down"):
        device.link.request("time", {})
    device.stop()


def test_an_acknowledgement_that_is_lost_makes_the_device_send_again(broker, fleet, tmp_path):
    fleet.acks = False
    device = Device(tmp_path / "device", broker.url)
    device.link._sender._timer = RetryTimer(lambda: 0.0, min_s=0.2)
    for number in range(1, 4):
        device.outbox.put(event(number))
    fleet.wait(lambda: fleet.repeated > 0)
    assert device.outbox.state().rows == 3
    fleet.acks = True
    until(lambda: device.outbox.watermark == 3)
    assert sorted(fleet.labels()) == ["e1", "e2", "e3"]
    device.stop()


def test_when_the_broker_is_killed_again_and_again_nothing_is_lost_or_doubled(broker, fleet, tmp_path):
    device = Device(tmp_path / "device", broker.url)
    device.link._sender._timer = RetryTimer(lambda: 0.0, min_s=0.2)
    number = 0
    for _ in range(3):
        for _ in range(300):
            number += 1
            device.outbox.put(event(number))
        fleet.wait(lambda seen=number: len(fleet.records) > seen - 290)
        broker.kill()
        for _ in range(100):
            number += 1
            device.outbox.put(event(number))
        broker.start()
    fleet.wait(lambda: len(fleet.labels()) == number, 90)
    assert len(set(fleet.labels())) == number
    device.stop()


_AGENT = """
import os, sys
from pathlib import Path
from test_link_support import Device, event
folder, url, start = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
device = Device(folder, url)
for n in range(start, start + 400):
    device.outbox.put(event(n))
    if n % 40 == 0:
        device.outbox.flush()
        print(n, flush=True)
sys.stdin.readline()
"""


def test_when_the_device_is_killed_again_and_again_nothing_durable_is_lost_or_doubled(
    broker, fleet, tmp_path
):
    here = Path(__file__)
    (tmp_path / "test_link_support.py").write_text(
        textwrap.dedent(f"""
        import sys
        sys.path[:0] = [{str(here.parent)!r}, {str(Path.cwd())!r}]
        from {here.stem} import Device, event
        """)
    )
    durable: set[int] = set()
    for start in (1, 1001, 2001):
        child = subprocess.Popen(
            [sys.executable, "-c", _AGENT, str(tmp_path / "device"), broker.url, str(start)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        for line in child.stdout:
            durable |= set(range(start, int(line) + 1))
            if int(line) >= start + 200:
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
    device = Device(tmp_path / "device", broker.url)
    fleet.wait(lambda: {f"e{n}" for n in durable} <= set(fleet.labels()), 90)
    assert len(set(fleet.labels())) == len(fleet.labels())
    device.stop()


# -- without a broker


def test_a_broker_that_is_gone_and_its_new_address_are_tried_in_turn(broker, fleet, tmp_path):
    device = Device(tmp_path / "device", f"mqtt://127.0.0.1:{free_port()}")
    device.link.also_try(broker.url)
    until(lambda: device.link.is_connected)
    assert device.link.broker_url == broker.url
    fleet.wait(lambda: fleet.states)
    device.stop()


def test_first_and_later_connects_wait_a_random_part_of_a_growing_time(tmp_path):
    asked = []

    def random() -> float:
        asked.append(1)
        return 0.001

    outbox = Outbox(tmp_path / "o", SystemClock(), commit_delay_s=0)
    link = Link(f"mqtt://127.0.0.1:{free_port()}", DEVICE, outbox, Owner().handlers(), random=random)
    link.start()
    until(lambda: len(asked) >= 6)
    link.stop(60.0)
    link.stop()
    assert link.counters()["connect_failures"] >= 5
    assert not any(t.name == "link" for t in threading.enumerate())
    outbox.close()


def test_a_link_that_was_never_started_can_be_stopped(tmp_path):
    outbox = Outbox(tmp_path / "o", SystemClock(), commit_delay_s=0)
    link = Link("mqtt://127.0.0.1:1", DEVICE, outbox, Owner().handlers())
    link.stop()
    outbox.close()


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "x", "mqtt://h:99999", "mqtts://h:1"])
def test_a_url_that_is_not_a_brokers_and_tls_without_identity_are_refused(tmp_path, url):
    outbox = Outbox(tmp_path / "o", SystemClock(), commit_delay_s=0)
    with pytest.raises(ConfigError):
        Link(url, DEVICE, outbox, Owner().handlers())
    outbox.close()


# -- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


class Authority:
    """A CA that gives out P-256 certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        self._x509, self._hashes, self._ec, self._serialization = x509, hashes, ec, serialization
        self._name_oid, self._usage = NameOID.COMMON_NAME, ExtendedKeyUsageOID
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = self._subject(name)
        self.certificate = self._builder(self.name, self.key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        ).add_extension(
            x509.KeyUsage(  # Python 3.13 and later refuse a CA without keyCertSign
                key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False,
                encipher_only=False, decipher_only=False,
            ), critical=True
        ).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
        ).sign(self.key, hashes.SHA256())  # fmt: skip
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _subject(self, name: str):
        return self._x509.Name([self._x509.NameAttribute(self._name_oid, name)])

    def _builder(self, subject, public):
        now = dt.datetime.now(dt.timezone.utc)
        return (
            self._x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public)
            .serial_number(self._x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=10))
        )  # fmt: skip

    def issue(self, name: str, *, server: bool = False) -> dict[str, Path]:
        import ipaddress

        key = self._ec.generate_private_key(self._ec.SECP256R1())
        usage = self._usage.SERVER_AUTH if server else self._usage.CLIENT_AUTH
        builder = self._builder(self._subject(name), key.public_key())
        builder = builder.add_extension(self._x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(
            self._x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        address = self._x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(self._x509.SubjectAlternativeName([address]), critical=False)
        found = {"cert": self.folder / f"{name}.crt", "key": self.folder / f"{name}.key", "ca": self.ca}
        encoding = self._serialization.Encoding.PEM
        certificate = builder.sign(self.key, self._hashes.SHA256())
        found["cert"].write_bytes(certificate.public_bytes(encoding))
        found["key"].write_bytes(
            key.private_bytes(
                encoding, self._serialization.PrivateFormat.PKCS8, self._serialization.NoEncryption()
            )
        )
        return found


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", BROKERS)
def test_over_tls_a_device_proves_itself_and_trusts_only_the_fleets_ca(kind, tmp_path, authority, request):
    broker = Broker(kind, tmp_path, authority.issue("server", server=True))
    request.addfinalizer(broker.kill)
    broker.start()
    mine = authority.issue(DEVICE)
    good = Device(tmp_path / "a", broker.url, tls=Tls(mine["ca"], mine["cert"], mine["key"]))
    good.owner.wait(lambda: good.owner.connections == [True])
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    stranger = other.issue(DEVICE)
    for name, tls in (
        ("wrong ca", Tls(other.ca, mine["cert"], mine["key"])),
        ("wrong certificate", Tls(mine["ca"], stranger["cert"], stranger["key"])),
    ):
        bad = Device(tmp_path / name, broker.url, tls=tls)
        until(lambda link=bad.link: link.counters()["connect_failures"] >= 2)
        assert bad.owner.connections == [], name
        bad.stop()
    gc.collect()  # here, where the warning is ignored, and not in whatever test comes next
    large = "x" * 60_000
    for number in range(5):  # more than one TLS record
        good.outbox.put(wire.Alert(mono_ns=0, unix_ms=0, level="info", code=str(number), message=large))
    good.stop()
