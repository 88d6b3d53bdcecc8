"""An answer goes to the program that asked for it, once that takes it, whatever ends meanwhile."""

import contextlib
import http.server
import os
import queue
import socket
import threading
import time

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.serve import webhooks
from edgekit.serve.errors import HttpError
from edgekit.serve.webhooks import webhook_of

X = np.float32([1, 2, 3, 4])


class Receiver(http.server.ThreadingHTTPServer):
    """Takes answers, with the statuses it is told to give first."""

    def __init__(self, *statuses):
        self.statuses, self.heard = list(statuses), queue.Queue()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/answers?from=edge"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.end_headers()
        self.server.heard.put((status, self.path, dict(self.headers), body))

    def log_message(self, *_words):
        pass


class Odd:
    """Answers each connection with the same bytes, and closes it once its client does."""

    def __init__(self, answer):
        self.heard = threading.Semaphore(0)
        self._answer, self._socket = answer, socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):  # it is closed
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 20)
                    self.heard.release()
                    connection.sendall(self._answer)
                    while connection.recv(1 << 20):
                        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(60)


@contextlib.contextmanager
def listening(*statuses):
    receiver = Receiver(*statuses)
    thread = threading.Thread(target=receiver.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(webhooks, "_AGAIN_S", 0.05)


def send(server, url):
    headers = {"prefer": "respond-async", "inference-header-content-length": "0", "x-edgekit-webhook": url}
    return server.client.post("/v2/models/double/infer", content=X.tobytes(), headers=headers)


def left_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def until_empty(folder):
    deadline_s = time.monotonic() + 60
    while left_in(folder):
        assert time.monotonic() < deadline_s, left_in(folder)
        time.sleep(0.01)  # files have no event


def test_the_answer_arrives_as_the_client_would_have_got_it_and_is_removed(tmp_path):
    with listening(503, 429) as receiver, served(doubling()[0], jobs=tmp_path) as server:
        job = send(server, receiver.url).json()
        heard = [receiver.heard.get(timeout=60) for _ in range(3)]
        assert [status for status, *_ in heard] == [503, 429, 200]
        _, path, headers, body = heard[-1]
        assert path == "/answers?from=edge"
        assert (headers["x-edgekit-job"], headers["x-edgekit-status"]) == (job["id"], "200")
        length = int(headers["inference-header-content-length"])
        assert np.frombuffer(body[length:], np.float32).tolist() == [2, 4, 6, 8]
        until_empty(tmp_path)
        assert server.client.get(job["href"]).status_code == 404


def test_a_refusal_gives_the_answer_up(tmp_path, caplog):
    with listening(403) as receiver, served(doubling()[0], jobs=tmp_path) as server:
        send(server, receiver.url)
        assert receiver.heard.get(timeout=60)[0] == 403
        until_empty(tmp_path)
    assert "does not want it" in caplog.text


ODD_ANSWERS = {
    "no status": b"HTTP/1.1\r\n\r\n",
    "no number": b"HTTP/1.1 OK\r\n\r\n",
    "no end": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,
    "another protocol": b"220 mail.example ESMTP\r\n\r\n",
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_a_program_that_does_not_answer_in_http_is_tried_again_and_stops_nobody(tmp_path, answer):
    """It ended the task that runs all jobs."""
    with Odd(answer) as odd, listening() as receiver, served(doubling()[0], jobs=tmp_path) as server:
        send(server, f"http://127.0.0.1:{odd.port}/")
        for _ in range(2):
            assert odd.heard.acquire(timeout=60)
        send(server, receiver.url)
        assert receiver.heard.get(timeout=60)[0] == 200


def test_an_answer_without_an_end_is_not_read(tmp_path):
    """Its status is all that counts; a gigabyte a second fills the memory before the time is over."""
    head = b"HTTP/1.1 204 OK\r\ncontent-length: 99999999999\r\n\r\n"
    with Odd(head) as odd, served(doubling()[0], jobs=tmp_path) as server:
        send(server, f"http://127.0.0.1:{odd.port}/")
        until_empty(tmp_path)


def test_what_a_killed_process_left_is_sent_by_the_next_one(tmp_path):
    with socket.socket() as nobody, served(doubling()[0], jobs=tmp_path) as server:
        nobody.bind(("127.0.0.1", 0))  # bound, so that no other test listens there
        href = send(server, f"http://127.0.0.1:{nobody.getsockname()[1]}/").json()["href"]
        while server.client.get(href).status_code == 202:
            pass
    assert {path.suffix for path in left_in(tmp_path)} >= {".answer", ".hook"}
    with listening() as receiver:
        (hook,) = tmp_path.rglob("*.hook")
        hook.write_text(receiver.url)
        with served(doubling(version="2.0.0")[0], jobs=tmp_path):  # the version that answered is gone
            assert receiver.heard.get(timeout=60)[0] == 200
            until_empty(tmp_path)


def test_an_address_without_its_job_is_removed(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        server.client.post("/v2/repository/models/double/unload")
        send(server, "http://127.0.0.1:9/x")
    (job,) = tmp_path.rglob("*.job")
    job.unlink()  # as a power cut leaves it between the two files
    (hook,) = tmp_path.rglob("*.hook")
    os.utime(hook, (0, 0))
    with served(doubling()[0], jobs=tmp_path):
        until_empty(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        b"http://192.0.2.7/x",
        b"https://127.0.0.1/x",
        b"http://127.0.0.1:0/x",
        b"http://127.0.0.1:70000/",
        b"http://127.0.0.1:80/a b",
        b"http://me:secret@127.0.0.1/",
        b"http://:secret@127.0.0.1/",
        b"http://127.0.0.1.example/",
        b"file:///etc/passwd",
        b"http://[::1/",
        b"\xff",
        b"",
        b"http://localhost/" + b"a" * 3000,
    ],
)
def test_only_this_machine_is_an_address(given):
    with pytest.raises(HttpError, match="an address of this machine"):
        webhook_of(given)


def test_a_wrong_address_is_refused_before_the_job_is_kept(tmp_path):
    with served(doubling()[0], jobs=tmp_path) as server:
        assert send(server, "http://192.0.2.7/x").status_code == 400
        assert not left_in(tmp_path)
