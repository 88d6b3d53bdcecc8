"""A webhook gets every event once the server takes it, signed, and neither blocks nor forgets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from brokers import free_port

from edgekit.core.errors import ConfigError, StorageError
from edgekit.sync import webhook
from edgekit.sync.gate import Packed
from edgekit.sync.publishers import Publishers
from edgekit.sync.webhook import Target, Webhook

EVENT = {"pipeline": "door", "id": "e1", "kind": "appeared", "label": "person", "total": 2}
ENVELOPE = {
    "specversion": "1.0",
    "id": "e1",
    "source": "/edgekit/x/door",
    "type": "io.edgekit.event.appeared",
}


class Books:
    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(self, *row) -> None:
        self.rows.append(row)


class Server:
    """Answers with the statuses of ``script`` in turn, then 204."""

    def __init__(self, port: int = 0, script=()) -> None:
        self.script, self.asked = list(script), []
        self.changed = threading.Condition()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with server.changed:
                    status = server.script.pop(0) if server.script else 204
                    status = status(body) if callable(status) else status
                    server.asked.append((dict(self.headers), body, status))
                    server.changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def taken(self) -> list[bytes]:
        return [body for _, body, status in self.asked if status < 300]

    def wait(self, claim) -> None:
        with self.changed:
            assert self.changed.wait_for(claim, 60), self.asked

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(*script, port: int = 0):
    server = Server(port, script)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(webhook, "_delay_s", lambda attempt: 0.02)


def hook(port: int, folder, **keys) -> Webhook:
    target = Target(f"http://127.0.0.1:{port}/hook?key=hidden", "text/plain", **keys)
    return Webhook(target, folder / "q.sqlite", lambda packed: None)


def put(to: Webhook, *bodies: str) -> None:
    for body in bodies:
        to.put(body, Packed(body.encode(), {"labels": 1}))


def until(claim) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if claim():
            return
        tick.wait(0.02)
    raise AssertionError("what was waited for did not come")


def test_a_cloud_event_has_what_may_leave_and_its_bytes_are_in_the_ledger(tmp_path):
    books = Books()
    with serving() as server:
        publishers = Publishers("door", ["labels"], books)
        send = publishers.post(f"http://127.0.0.1:{server.port}/hook", tmp_path)
        send("e1", ENVELOPE, EVENT)
        publishers.close()
        ((headers, body, _),) = server.asked
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert json.loads(body) == {
        **ENVELOPE,
        "data": {"pipeline": "door", "id": "e1", "kind": "appeared", "label": "person"},
    }
    passed = [row for row in books.rows if row[3] == "passed"]
    assert sum(row[4] for row in passed) == len(body)
    assert {row[1] for row in passed} == {"labels", "envelope"}
    assert [row[1:4] for row in books.rows if row[3] == "refused"] == [
        ("counts", f"127.0.0.1:{server.port}", "refused")
    ]
    (state,) = publishers.states()
    assert (state["sent"], state["unsent"], state["problem"]) == (1, 0, "")


def test_a_request_is_signed_over_id_time_and_body(tmp_path):
    key = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
    with serving() as server:
        sender = hook(server.port, tmp_path, secret=f"whsec_{key}", token="t0ken")
        put(sender, "hello")
        sender.close()
        ((headers, body, _),) = server.asked
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["Authorization"] == "Bearer t0ken"


def test_what_waits_for_a_dead_server_is_sent_in_order_when_it_is_back(tmp_path, caplog):
    port = free_port()
    sender = hook(port, tmp_path)
    began_s = time.monotonic()
    put(sender, *(str(number) for number in range(200)))
    assert time.monotonic() - began_s < 20  # it does not wait: 200 tries would take minutes
    until(lambda: sender.state().problem)
    with serving(503, 429, port=port) as server:
        server.wait(lambda: len(server.taken) == 200)
        sender.close()
    assert [int(body) for body in server.taken] == list(range(200))
    assert (sender.state().sent, sender.state().unsent, sender.state().refused) == (200, 0, 0)
    assert "hidden" not in caplog.text  # the rest of a URL may be a secret


def test_what_is_unsent_at_the_end_is_sent_by_the_next_start(tmp_path):
    port = free_port()
    first = hook(port, tmp_path)
    put(first, "a", "b")
    first.close(1.0)
    assert (first.state().sent, first.state().unsent) == (0, 2)
    with serving(port=port) as server:
        second = hook(port, tmp_path)
        server.wait(lambda: len(server.taken) == 2)
        second.close()
    assert server.taken == [b"a", b"b"]


KILLED = """
import sys
from pathlib import Path
from edgekit.sync.gate import Packed
from edgekit.sync.webhook import Target, Webhook
sender = Webhook(Target(sys.argv[1], "text/plain"), Path(sys.argv[2]), lambda packed: None)
for number in range(100):
    sender.put(str(number), Packed(str(number).encode(), {}))
while sender._pending:
    pass
print("stored", flush=True)
sys.stdin.read()
"""


def test_an_event_is_kept_when_it_is_on_disk_or_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "MAX_PENDING", 1)
    on_disk, may_go_on, kept = threading.Event(), threading.Event(), []

    def due(_):
        on_disk.set()
        may_go_on.wait(60)

    monkeypatch.setattr(Webhook, "_due", due)
    sender = hook(free_port(), tmp_path)

    def put_event(name):
        sender.put(name, Packed(b"", {}), lambda: kept.append(name))

    put_event("a")
    assert on_disk.wait(60)
    assert kept == ["a"]
    put_event("b")  # waits in memory
    put_event("c")  # has no room
    assert kept == ["a", "c"]
    may_go_on.set()
    until(lambda: kept == ["a", "c", "b"])
    sender.close(0.1)
    put_event("d")
    assert kept == ["a", "c", "b"]


def test_kill_9_loses_nothing_that_is_on_disk(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"http://127.0.0.1:{port}/hook", tmp_path / "q.sqlite"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"stored\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with serving(port=port) as server:
        sender = hook(port, tmp_path)
        server.wait(lambda: len(server.taken) == 100)
        sender.close()
    assert [int(body) for body in server.taken] == list(range(100))


def test_what_waits_is_not_sent_once_it_may_not_leave_any_more(tmp_path, caplog):
    port = free_port()
    for egress in (["labels", "counts"], ["counts"]):
        publishers = Publishers("door", egress, Books())
        send = publishers.post(f"http://127.0.0.1:{port}/hook", tmp_path)
        send(egress[0], ENVELOPE, EVENT)
        if egress == ["counts"]:
            break
        publishers.close()
    assert "1 queued events may not leave any more" in caplog.text
    with serving(port=port) as server:
        server.wait(lambda: server.taken)
        publishers.close()
    assert [json.loads(body)["data"].get("label") for body in server.taken] == [None]
    assert publishers.states()[0]["refused"] == 1


def test_a_refused_event_is_counted_and_the_others_go_on(tmp_path, caplog):
    with serving(
        lambda body: 400 if body == b"bad" else 204, lambda body: 400 if body == b"bad" else 204
    ) as server:
        sender = hook(server.port, tmp_path)
        put(sender, "bad", "good")
        server.wait(lambda: server.taken == [b"good"])
        sender.close()
    assert (sender.state().sent, sender.state().refused) == (1, 1)
    assert "it answered 400" in caplog.text


def test_an_event_that_the_server_fails_on_does_not_block_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "TRIES", 3)
    script = [lambda body: 500 if body == b"poison" else 200] * 50
    with serving(*script) as server:
        sender = hook(server.port, tmp_path)
        put(sender, "poison", "good", "better")
        until(lambda: sender.state().refused == 1 and sender.state().sent == 2)
        sender.close()
    assert [body for _, body, _ in server.asked].count(b"poison") == 3


def test_the_queue_is_bounded_and_says_what_it_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "MAX_ROWS", 10)
    port = free_port()
    sender = hook(port, tmp_path)
    put(sender, *(str(number) for number in range(25)))
    until(lambda: sender.state().unsent == 10)
    sender.close(0.1)
    assert sender.state().dropped == 15
    with closing(sqlite3.connect(tmp_path / "q.sqlite")) as db:
        assert [row[0] for row in db.execute("SELECT id FROM queue")] == [str(n) for n in range(15, 25)]


def test_a_full_disk_or_damage_is_told_and_nothing_waits_for_ever(tmp_path, caplog):
    (tmp_path / "q.sqlite").write_bytes(b"not a database" * 50)
    with serving() as server:
        sender = hook(server.port, tmp_path)
        put(sender, "a")
        server.wait(lambda: server.taken)
        with pytest.raises(StorageError, match="database is locked"):
            hook(server.port, tmp_path)
        sender.close()
    assert "is damaged" in caplog.text


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/", "want http:// or https://"),
        ("https://me:secret@host/", "want no user and password"),
        ("http://host:99999/", "url: want .* cannot be parsed"),
    ],
)
def test_an_address_that_can_never_be_posted_to_is_refused(tmp_path, url, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        Publishers("door", ["labels"], Books()).post(url, tmp_path)
    assert "secret" not in str(caught.value)
