"""A link of a sink with a broker of its own: nothing is lost in silence or blocks what is behind it."""

from __future__ import annotations

import gc
import logging
import socket
import subprocess
import threading
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import Broker, free_port, mosquitto_path, nats_path
from paho.mqtt.enums import CallbackAPIVersion

from edgekit.core.errors import ConfigError
from edgekit.sync.address import Tls, parse_url
from edgekit.sync.publisher import Publisher
from edgekit.sync.publishers import Publishers

BROKERS = [
    pytest.param("nats", marks=pytest.mark.skipif(not nats_path(), reason="no nats-server")),
    pytest.param("mosquitto", marks=pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")),
]
LIMIT = {"nats": "max_payload: 20000\n", "mosquitto": "max_packet_size 20000\n"}
needs_mosquitto = pytest.mark.skipif(not mosquitto_path(), reason="no mosquitto")


def until(claim, timeout: float = 60.0) -> None:
    tick = threading.Event()
    for _ in range(int(timeout / 0.02)):
        if claim():
            return
        tick.wait(0.02)
    raise AssertionError("what was waited for did not come")


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Ear:
    """Hears every message of a broker."""

    def __init__(self, port: int) -> None:
        self.heard: list[bytes] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("site/#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = lambda _c, _d, message: self.heard.append(message.payload)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(60)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def patient(monkeypatch):
    """A busy machine takes its time to connect."""
    monkeypatch.setattr("edgekit.sync.publisher._CONNECTING_S", 60.0)


def problem_of(url: str, tls: Tls | None = None) -> str:
    publisher = Publisher(parse_url(url), tls)
    until(lambda: publisher.state().problem)
    found = publisher.state()
    publisher.close(0.1)
    assert not found.is_connected
    return found.problem


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.usefixtures("patient")
def test_everything_arrives_and_is_counted_as_it_is_handed_over(kind, tmp_path):
    broker = Broker(kind, tmp_path)
    broker.start()
    ear = Ear(broker.port)
    publisher, sent, kept = Publisher(parse_url(broker.url)), [], []
    for number in range(50):
        publisher.publish(
            *("site/door", str(number).encode(), lambda number=number: sent.append(number)),
            on_kept=lambda number=number: kept.append(number),
        )
    publisher.close(60.0)
    publisher.close()
    until(lambda: len(ear.heard) == 50)
    # in any order: NATS may give the first ones of a new subscription last
    assert sorted(map(int, ear.heard)) == sorted(sent) == sorted(kept) == list(range(50))
    state = publisher.state()
    assert (state.sent, state.unsent, state.dropped, state.refused) == (50, 0, 0, 0)
    ear.stop()
    broker.kill()


def test_a_message_is_kept_when_it_is_given_up_and_not_while_it_waits_or_at_the_end():
    publisher = Publisher(parse_url(f"mqtt://127.0.0.1:{free_port()}"), max_waiting=2)
    kept: list[int] = []
    for number in range(3):
        publisher.publish("t", b"", on_kept=lambda number=number: kept.append(number))
    assert kept == [2]  # nobody will send it
    publisher.close(0.1)
    publisher.publish("t", b"", on_kept=lambda: kept.append(3))
    assert kept == [2]


@pytest.mark.parametrize("kind", BROKERS)
def test_a_message_over_the_brokers_limit_is_set_aside_and_the_others_arrive(kind, tmp_path, caplog):
    broker = Broker(kind, tmp_path, extra=LIMIT[kind])
    broker.start()
    ear = Ear(broker.port)
    publisher = Publisher(parse_url(broker.url))
    for number in range(30):
        body = bytes(50_000) if number in (7, 20) else str(number).encode()
        publisher.publish("site/door", body)
    until(lambda: publisher.state().unsent == 0, 120)
    state = publisher.state()
    assert (state.sent, state.refused) == (28, 2)
    until(lambda: len(set(ear.heard)) == 28)
    assert "50000 bytes on site/door is given up" in caplog.text
    publisher.close()
    ear.stop()
    broker.kill()


def test_a_message_over_the_limit_holds_up_nothing_while_a_run_closes(tmp_path):
    """The whole run may be over before the first message is known to be too large."""
    broker = Broker("mosquitto", tmp_path, extra=LIMIT["mosquitto"])
    broker.start()
    publisher = Publisher(parse_url(broker.url))
    for number in range(12):
        publisher.publish("site/door", bytes(50_000) if number == 2 else b"small")
    publisher.close(30)
    state = publisher.state()
    assert (state.sent, state.refused, state.unsent) == (11, 1, 0)
    broker.kill()


@pytest.mark.parametrize("kind", BROKERS)
def test_what_waits_arrives_once_a_broker_is_there(kind, tmp_path):
    broker = Broker(kind, tmp_path)
    publisher = Publisher(parse_url(broker.url))
    publisher.publish("site/door", b"early")
    until(lambda: publisher.state().problem)
    broker.start()
    until(lambda: publisher.state().sent == 1)
    broker.kill()
    until(lambda: not publisher.state().is_connected)
    publisher.publish("site/door", b"late")
    broker.start()
    until(lambda: publisher.state().sent == 2)
    publisher.close()
    broker.kill()


def test_without_a_broker_too_much_is_dropped_and_the_rest_is_unsent(caplog):
    port = free_port()
    publisher = Publisher(parse_url(f"mqtt://127.0.0.1:{port}"), max_waiting=10)
    for number in range(25):
        publisher.publish("t", str(number).encode())
    until(lambda: publisher.state().problem)
    publisher.close(0.1)
    state = publisher.state()
    assert (state.sent, state.unsent, state.dropped) == (0, 10, 15)
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert f"broker 127.0.0.1:{port}: " in warning.getMessage()
    assert "refused" in warning.getMessage()


@needs_mosquitto
def test_a_wrong_password_is_named(tmp_path):
    (tmp_path / "users").write_text("me:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "users"], check=True, capture_output=True)
    broker = Broker("mosquitto", tmp_path, extra=f"allow_anonymous false\npassword_file {tmp_path}/users\n")
    broker.start()
    assert "the broker refused the connection: " in problem_of(f"mqtt://me:wrong@127.0.0.1:{broker.port}")
    publishers = Publishers("door", ["counts"], Entries())
    publishers.connect(broker.url, user="me", password="secret")
    until(lambda: publishers.states()[0]["is_connected"])
    publishers.close()
    broker.kill()


class Entries:
    def __init__(self) -> None:
        self.found: list[tuple] = []

    def add(self, *entry) -> None:
        self.found.append(entry)


def make_ca(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:TRUE",
         "-addext", "keyUsage=critical,keyCertSign,digitalSignature", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def tls_broker(tmp_path):
    certificate, key = make_ca(tmp_path, "broker")
    port = free_port()
    extra = f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n"
    broker = Broker("mosquitto", tmp_path, extra=extra)
    broker.start()
    until(lambda: is_open(port))
    yield broker, port, certificate
    broker.kill()


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_mosquitto
def test_a_ca_that_nobody_knows_is_named_and_the_ca_key_mends_it(tls_broker):
    _, port, certificate = tls_broker
    url = f"mqtts://127.0.0.1:{port}"
    assert "the broker's certificate is refused: self-signed certificate" in problem_of(url)
    publishers = Publishers("door", ["counts"], Entries())
    publishers.connect(url, ca=certificate)
    until(lambda: publishers.states()[0]["is_connected"])
    publishers.close()


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@needs_mosquitto
def test_a_port_of_tls_in_clear_and_the_other_way_round_are_named(tls_broker):
    broker, port, certificate = tls_broker
    assert "TLS" in problem_of(f"mqtt://127.0.0.1:{port}")
    found = problem_of(f"mqtts://127.0.0.1:{broker.port}", Tls(certificate))
    assert "speaks no TLS" in found, found
    gc.collect()


@needs_mosquitto
def test_a_websocket_port_is_named(tmp_path):
    port = free_port()
    broker = Broker("mosquitto", tmp_path, extra=f"listener {port} 127.0.0.1\nprotocol websockets\n")
    broker.start()
    until(lambda: is_open(port))
    assert "websocket" in problem_of(f"mqtt://127.0.0.1:{port}")
    broker.kill()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b""]
)
def test_what_is_no_broker_is_named(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        problem = problem_of(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
    assert ("websocket" if answer[:1] != b"\x15" else "TLS") in problem


def test_a_broker_is_opened_once_however_often_a_source_comes_back():
    publishers = Publishers("door", ["counts"], Entries())
    before = threading.active_count()
    for _ in range(5):
        publishers.connect("mqtt://127.0.0.1:1")
    assert threading.active_count() == before + 1
    assert len(publishers.states()) == 1
    publishers.close()
    assert threading.active_count() == before


def test_what_a_sink_may_not_tell_is_refused_before_the_queue():
    books = Entries()
    publishers = Publishers("door", ["counts"], books)
    send = publishers.connect("mqtt://127.0.0.1:1")
    send("t", {"pipeline": "door", "label": "person", "total": 2})
    assert books.found == [("door", "labels", "127.0.0.1:1", "refused", len('"label":"person",'))]
    publishers.close()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"url": ""}, "url: want a broker"),
        ({"url": "http://host"}, "want mqtt://"),
        ({"url": "mqtts://host", "ca": Path("/nowhere")}, "cannot be used"),
        ({"url": "mqtt://host", "ca": Path("/etc/hosts")}, "want it with mqtts://"),
    ],
)
def test_what_can_never_connect_is_a_configuration_error(keys, problem):
    with pytest.raises(ConfigError, match=problem):
        Publishers("door", ["counts"], Entries()).connect(**keys)


@needs_mosquitto
def test_a_broker_that_closes_the_connection_is_named_as_the_problem(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    broker.start()
    publisher = Publisher(parse_url(broker.url))
    until(lambda: publisher.state().is_connected)
    seen = []
    broker.kill()
    until(lambda: seen.append(publisher.state()) or not seen[-1].is_connected)
    assert seen[-1].problem.startswith("the broker closed the connection")
    publisher.close(0.1)
