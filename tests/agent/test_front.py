"""One address for several models, each in a process of its own that may end, hang or crash."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import httpx
import numpy as np
import pytest
from bundles import CHANNELS, WINDOW, make_bundle
from onnx_bundles import make_doubler

from edgekit.agent import serving
from edgekit.agent.reactor import Reactor
from edgekit.agent.serving import ServeOptions, serve
from edgekit.core.errors import BundleError, StorageError, UsageError
from edgekit.serve.address import Address
from edgekit.serve.ports import Limits

BODY = np.zeros((1, WINDOW, CHANNELS), np.float32).tobytes()
RAW = {"Inference-Header-Content-Length": "0"}
CRASHES = {"crash_at": 12}
"""Not in the proof, which makes five runs, but in the tenth request to the host."""
SPARE = {"id": "spare", "backend": "null"}


@pytest.fixture(scope="module", autouse=True)
def _cache(proved_cache):
    """All tests here share what is verified and measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proved_cache()))
        yield os.environ["EDGEKIT_CACHE"]


@pytest.fixture(autouse=True)
def _shared_cache(_cache, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", _cache)


class Served:
    """A front in a thread of this process, whose hosts are processes."""

    def __init__(self, url, front, verify=True):
        self.url, self.front, self._verify = url, front, verify
        self.client = self.connect()

    def connect(self):
        return httpx.Client(base_url=self.url, timeout=60, verify=self._verify)

    def infer(self, model, client=None):
        """Send one request, on a connection of its own unless a client is given."""
        if client is None:
            with self.connect() as fresh:
                return self.infer(model, fresh)
        return client.post(f"/v2/models/{model}/infer", content=BODY, headers=RAW)

    def row(self, model, version=""):
        with self.connect() as fresh:
            rows = fresh.get("/status").json()["models"]
        return next(row for row in rows if row["name"] == model and version in ("", row["version"]))

    def until(self, condition, what):
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            if condition():
                return
            time.sleep(0.02)  # the processes share the machine with whoever asks
        raise AssertionError(f"{what} never came: {self.client.get('/status').text}")

    def until_answers(self, model):
        self.until(lambda: self.infer(model).status_code == 200, f"an answer of {model}")


@contextlib.contextmanager
def served(*bundles, limits=None, address=None, verify=True, **options):
    options = ServeOptions(
        bundles=tuple(map(str, bundles)),
        address=address or Address("127.0.0.1", 0),
        limits=limits or Limits(),
        backoff_s=(0.05, 0.2),
        **{"retry_s": (600.0, 600.0), **options},
    )
    reactor, ready, began = Reactor(), threading.Event(), []

    def run():
        try:
            serve(options, on_ready=lambda *both: (began.append(both), ready.set()), reactor=reactor)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(120)
        (((url, *_), front),) = began
        running = Served(url, front, verify)
        with running.client:
            yield running
    finally:
        reactor.stop()
        thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def two(tmp_path_factory, _cache):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", _cache)
        with served(
            make_bundle(folder / "a", model="a"),
            make_bundle(folder / "a2", model="a", version="2.0.0"),
            make_bundle(folder / "b", model="b"),
        ) as running:
            yield running


def test_a_model_that_crashes_costs_the_others_nothing_and_returns_on_its_other_variant(tmp_path):
    bad = make_bundle(tmp_path / "bad", model="bad", options=CRASHES, more_variants=(SPARE,))
    with served(bad, make_bundle(tmp_path / "good", model="good")) as server:
        results, done = [], threading.Event()

        def load():
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not done.wait(0.005) or len(results) < 200:
                    results.append(server.infer("good", client).status_code)

        thread = threading.Thread(target=load)
        thread.start()
        assert [server.infer("bad").status_code for _ in range(9)] == [200] * 9
        with pytest.raises(httpx.RemoteProtocolError):
            server.infer("bad")
        between = server.infer("bad")
        assert between.status_code == 503
        assert between.headers["retry-after"] == "1"
        assert "killed by SIGSEGV" in between.json()["error"]
        server.until_answers("bad")
        done.set()
        thread.join(60)
        row = server.row("bad")
        metrics = server.client.get("/metrics").text.splitlines()
    assert set(results) == {200}
    assert (row["variant"], row["restarts"], row["state"]) == ("spare", 1, "READY")
    assert "killed by SIGSEGV" in row["excluded"]["null"]
    for model, restarts in (("bad", 1), ("good", 0)):
        assert f'edgekit_model_restarts_total{{model="{model}",version="1.0.0"}} {restarts}' in metrics


def test_the_only_variant_of_a_model_that_crashes_is_opened_again(tmp_path):
    with served(make_bundle(tmp_path / "b", model="only", options=CRASHES)) as server:
        for _ in range(9):
            server.infer("only")
        with pytest.raises(httpx.RemoteProtocolError):
            server.infer("only")
        assert server.client.get("/v2/health/live").status_code == 200
        assert server.client.get("/v2/health/ready").status_code == 503
        assert "opened again" in server.infer("only").json()["error"]
        server.until_answers("only")
        assert server.row("only")["variant"] == "null"


def test_an_inference_that_hangs_ends_its_process_and_its_variant_returns_later(tmp_path, caplog):
    bad = make_bundle(tmp_path / "b", model="bad", options={"hang_at": 7}, more_variants=(SPARE,))
    with served(bad, limits=Limits(stuck_s=0.5, inline_s=0.0), retry_s=(0.1, 600.0)) as server:
        for _ in range(4):
            assert server.infer("bad").status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            server.infer("bad")
        server.until_answers("bad")
        server.until(lambda: server.row("bad").get("returns") == 1, "the return of the first variant")
        assert server.row("bad")["variant"] == "null"
    assert "variant null is excluded: an inference took longer than 0.5 s" in caplog.text


def test_a_stopped_host_answers_503_while_the_others_answer_and_goes_on_or_is_killed(tmp_path):
    bundles = [make_bundle(tmp_path / name, model=name) for name in ("a", "b")]
    with served(*bundles, limits=Limits(quiet_s=1.0, silent_s=5.0)) as server:
        host, pid = server.front.peers[0], server.row("a")["pid"]
        os.kill(pid, signal.SIGSTOP)
        server.until(lambda: not host.is_answering, "the silence of a")
        refused = server.client.post("/v2/models/a/infer", content=b"x" * (4 << 20), headers=RAW)
        assert (refused.status_code, server.infer("b").status_code) == (503, 200)
        assert "does not respond" in refused.json()["error"]
        os.kill(pid, signal.SIGCONT)
        server.until_answers("a")
        assert server.row("a")["pid"] == pid
        os.kill(pid, signal.SIGSTOP)
        server.until(lambda: not host.is_answering, "the silence of a")
        index = server.client.post("/v2/repository/index").json()
        assert {row["name"]: row["state"] for row in index} == {"a": "UNAVAILABLE", "b": "READY"}
        server.until_answers("a")
        assert server.row("a")["pid"] != pid
        assert server.row("a")["variant"] == "null"


def test_ten_kills_in_a_row_cost_the_other_model_nothing(two):
    before, pids = two.row("b"), set()
    host = two.front.peers[1]  # the newest version of a
    for _ in range(10):
        two.until(lambda: host.rows[0].pid not in {0, *pids}, "a new process")
        pids.add(host.rows[0].pid)
        os.kill(host.rows[0].pid, signal.SIGKILL)
        assert two.infer("b").status_code == 200
    two.until_answers("a")
    assert host.rows[0].restarts >= 10
    assert two.row("b")["restarts"] == before["restarts"]
    status = two.client.get("/v2/models/a/versions/1.0.0/ready")
    assert status.status_code == 200


def test_a_connection_that_stays_open_reaches_every_model(two):
    for model in ("a", "b", "a", "b", "b"):
        answered = two.infer(model, two.client)
        assert (answered.status_code, answered.content[-8:]) == (200, np.float32([0.1, 0.9]).tobytes())
    assert two.client.get("/v2/models/a").json()["versions"] == ["1.0.0", "2.0.0"]
    assert two.client.get("/v2/models/b/ready").json() == {"name": "b", "ready": True}
    assert two.client.get("/v2/models/c").status_code == 404
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, WINDOW, CHANNELS],
        "data": [0] * WINDOW * CHANNELS,
    }
    body = json.dumps({"inputs": [tensor], "id": "é"}).encode()
    for model in ("a", "b"):
        pieces = (body[at : at + 10] for at in range(0, len(body), 10))
        answered = two.client.post(f"/v2/models/{model}/infer?x=1", content=pieces)
        assert answered.json()["id"] == "é"
        assert two.client.post(f"/v2/models/{model}/infer", content=b"no").status_code == 400
        assert two.client.head(f"/v2/models/{model}").status_code == 200


def test_documents_are_whole_whichever_process_answers(two):
    two.infer("a")
    two.infer("b")
    documents = []
    for model in ("a", "b"):
        with httpx.Client(base_url=two.url) as client:
            client.get(f"/v2/models/{model}")  # from now on this model's process has the connection
            status = client.get("/status").json()
            assert status["server"]["pid"] == os.getpid()
            names = sorted((row["name"], row["version"], row["state"]) for row in status["models"])
            listed = client.post("/v2/repository/index").json()
            index = [(row["name"], row["version"], row["state"]) for row in listed]
            assert names == index
            metrics = client.get("/metrics").text.splitlines()
            assert len(metrics) == len(set(metrics))
            typed = [line for line in metrics if line.startswith("# TYPE")]
            ready = [line for line in metrics if line.startswith("edgekit_model_ready")]
            documents.append((names, typed, sorted(ready), client.get("/v2/health/ready").json()))
    assert documents[0] == documents[1]
    assert len(documents[0][2]) == 3
    assert len({row["pid"] for row in two.client.get("/status").json()["models"]}) == 3


def test_every_model_can_be_unloaded_and_loaded_from_every_connection(two):
    for opener in ("a", "b"):
        with httpx.Client(base_url=two.url) as client:
            client.get(f"/v2/models/{opener}")
            assert client.post("/v2/repository/models/b/unload").json() == {}
            states = {row["name"]: row["state"] for row in client.post("/v2/repository/index").json()}
            assert states["b"] == "UNAVAILABLE"
            assert two.infer("b").status_code == 503
            assert client.get("/v2/health/ready").status_code == 200
            assert client.post("/v2/repository/models/b/load").json() == {}
            assert two.infer("b").status_code == 200


def test_an_unloaded_model_stays_unloaded_when_its_process_is_restarted(two):
    with httpx.Client(base_url=two.url) as client:
        client.get("/v2/models/a")
        assert client.post("/v2/repository/models/b/unload").json() == {}
        pid = two.row("b")["pid"]
        os.kill(pid, signal.SIGKILL)
        two.until(lambda: two.row("b")["pid"] not in (0, pid), "a new process")
        two.until(lambda: two.row("b")["reason"] == "unloaded", "its report")
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post("/v2/repository/models/b/load").json() == {}
        assert two.infer("b", client).status_code == 200


def test_a_slow_first_line_is_waited_for_and_holds_up_nobody(two):
    port = httpx.URL(two.url).port
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
        for each in slow:
            each.sendall(b"GET /v2/mod")
        silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert two.infer("a").status_code == 200
        for each in [*slow[:3], silent]:
            each.sendall(
                b"els/b HTTP/1.1\r\nhost: localhost\r\n\r\n"
                if each is not silent
                else b"GET /v2/models/b HTTP/1.1\r\nhost: localhost\r\n\r\n"
            )
            assert each.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_client_that_ends_in_its_first_line_is_not_waited_for(two):
    with socket.create_connection(("127.0.0.1", httpx.URL(two.url).port), 20) as connection:
        connection.sendall(b"POST /v2")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # what it had sent is unread
            assert connection.recv(1) == b""  # the rest of a line has 30 s


def test_one_of_many_connections_that_say_nothing_is_refused_for_one_that_does(two):
    port = httpx.URL(two.url).port
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(256)]
        assert two.infer("a").status_code == 200
        silent[0].settimeout(60)
        assert silent[0].recv(1000).startswith(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n")


def test_a_client_that_hangs_up_on_another_models_process_takes_its_work_along(tmp_path):
    slow = make_bundle(tmp_path / "b", model="b", options={"latency_ms": 300})
    with served(make_bundle(tmp_path / "a", model="a"), slow) as server:
        head = (
            b"POST /v2/models/b/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 0\r\n"
        )
        head += b"content-length: %d\r\n\r\n" % len(BODY)
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as gone:
            gone.sendall(b"GET /v2/models/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert gone.recv(10000).startswith(b"HTTP/1.1 200")
            gone.sendall(head + BODY)
        line = 'edgekit_requests_total{model="b",version="1.0.0",code="499"} 1'
        server.until(lambda: line in server.client.get("/metrics").text, line)


def test_with_a_token_readiness_is_whole_and_open_and_the_rest_is_not(tmp_path):
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    bundles = [make_bundle(tmp_path / name, model=name) for name in ("a", "b")]
    with served(*bundles, token_file=tmp_path / "token") as server:
        assert server.client.get("/v2/health/ready").json() == {"ready": True}
        assert server.client.get("/status?part").status_code == 401
        server.client.get("/v2/models/a")
        assert server.infer("b", server.client).status_code == 401
        server.client.headers["authorization"] = "Bearer a-token-of-some-length"
        assert server.infer("b", server.client).status_code == 200
        assert len(server.client.get("/status").json()["models"]) == 2


def test_over_tls_any_process_answers_for_every_model(tmp_path, short_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "update")
    from update_kit import Authority

    authority = Authority()
    authority.server_context(tmp_path)
    certificate, key, path = tmp_path / "server.crt", tmp_path / "server.key", short_path / "s"
    address = Address("127.0.0.1", 0, uds=path, certificate=certificate, key=key)
    bundles = [make_bundle(tmp_path / name, model=name) for name in ("a", "b")]
    trusted = ssl.create_default_context(cadata=authority.pem)
    with served(*bundles, address=address, verify=trusted) as server:
        assert server.url.startswith("https://")
        with httpx.Client(base_url=server.url, verify=trusted) as client:
            assert [server.infer(model, client).status_code for model in ("a", "b", "a")] == [200] * 3
            rows = {row["name"]: row["pid"] for row in client.get("/status").json()["models"]}
        os.kill(rows["a"], signal.SIGKILL)
        server.until(lambda: server.front.peers[0].rows[0].pid != rows["a"], "the end of a")
        assert server.infer("a").status_code == 503
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://device") as client:
            assert server.infer("b", client).status_code == 200


def test_a_process_whose_front_is_killed_ends(tmp_path):
    words = [make_bundle(tmp_path / "a", model="a"), "--uds", tmp_path / "s"]
    command = [sys.executable, "-m", "edgekit.cli.main", "serve", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as front:
        assert any("serving at " in line for line in front.stderr)
        children = Path(f"/proc/{front.pid}/task/{front.pid}/children").read_text().split()
        assert len(children) == 1
        front.kill()
        front.communicate(timeout=60)  # the pipe is closed once nobody has it any more


def test_neither_connections_nor_restarts_leave_a_descriptor_in_the_front(tmp_path):
    words = [make_bundle(tmp_path / name, model=name) for name in ("a", "b")]
    command = [sys.executable, "-m", "edgekit.cli.main", "serve", *map(str, words), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as front:
        line = next(line for line in front.stderr if "serving at " in line)
        server = Served(line.split("serving at ")[1].strip(), None)
        drained = threading.Thread(target=front.stderr.read)
        drained.start()
        open_files = Path(f"/proc/{front.pid}/fd")
        before = len(list(open_files.iterdir()))
        with server.client:
            for _ in range(2):
                os.kill(server.row("a")["pid"], signal.SIGKILL)
                for _ in range(15):
                    server.infer("b")
                    server.infer("a")
                server.until_answers("a")
            server.until(lambda: len(list(open_files.iterdir())) <= before, "as few descriptors as before")
        assert not any("numpy" in line for line in Path(f"/proc/{front.pid}/maps").read_text().splitlines())
        front.terminate()
        drained.join(60)
    assert front.returncode == 0


def test_versions_share_the_requests_that_name_none_and_one_in_the_shadow_is_compared(tmp_path):
    folders = [
        make_bundle(tmp_path / version, model="a", version=version, scores=scores)
        for version, scores in (("1.0.0", (0.1, 0.9)), ("2.0.0", (0.1, 0.9)), ("3.0.0", (0.9, 0.1)))
    ]
    with served(*folders, split=("a=1.0.0:80,2.0.0:20",), shadow=("a=3.0.0",)) as server:

        def rows():
            found = {row["version"]: row for row in server.client.get("/status").json()["models"]}
            return [found[version]["shadow"] for version in ("1.0.0", "2.0.0")]

        def infer(url="/v2/models/a/infer"):
            answered = server.client.post(url, content=BODY, headers=RAW)
            assert answered.status_code == 200
            head = answered.content[: int(answered.headers["inference-header-content-length"])]
            return json.loads(head)["model_version"]

        asked = [infer() for _ in range(50)]
        assert [asked.count(version) for version in ("1.0.0", "2.0.0", "3.0.0")] == [40, 10, 0]
        assert asked[:5].count("2.0.0") == 1
        server.until(lambda: all(row and row["pairs"] for row in rows()), "a pair")
        server.until(lambda: sum(r["pairs"] + r["skipped"] for r in rows()) == 50, "the last pair")
        before = rows()
        assert [(row["version"], row["failed"], row["disagreed"]) for row in before] == [
            ("3.0.0", 0, row["pairs"]) for row in before
        ]
        assert before[0]["difference"] == pytest.approx(8 / 9, abs=1e-5)  # 0.9 and 0.1
        assert infer("/v2/models/a/versions/2.0.0/infer") == "2.0.0"  # who names a version has that alone
        assert rows() == before
        samples = server.client.get("/metrics").text
        assert 'edgekit_shadow_total{model="a",version="1.0.0",shadow="3.0.0",outcome="disagreed"}' in samples


def test_two_servers_do_not_share_a_folder_of_jobs(tmp_path, monkeypatch):
    """Each took what the other one had begun for what a killed process had left: jobs ran twice."""
    monkeypatch.setattr(serving, "_LOCK_WAIT_S", 0.0)
    bundle = make_bundle(tmp_path / "a", model="a")
    options = ServeOptions(bundles=(str(bundle),), address=Address("127.0.0.1", 0), jobs=tmp_path / "jobs")
    for _ in range(2):
        with served(bundle, jobs=tmp_path / "jobs") as server:
            reactor = Reactor()
            with pytest.raises(StorageError, match="another server keeps its jobs there"):
                serve(options, on_ready=lambda *_, other=reactor: other.stop(), reactor=reactor)
            assert server.infer("a").status_code == 200


def test_all_versions_are_unloaded_and_loaded_whichever_process_is_asked(tmp_path):
    folders = [make_bundle(tmp_path / each, model="a", version=each) for each in ("1.0.0", "2.0.0")]
    folders.append(make_bundle(tmp_path / "b", model="b"))
    with served(*folders) as server:

        def states(client):
            return [(row["name"], row["state"]) for row in client.post("/v2/repository/index").json()]

        for opener in ("a/versions/1.0.0", "a", "b"):
            with server.connect() as client:
                client.get(f"/v2/models/{opener}")
                assert client.post("/v2/repository/models/a/unload").json() == {}
                assert states(client) == [("a", "UNAVAILABLE")] * 2 + [("b", "READY")]
                assert client.post("/v2/repository/models/a/load").json() == {}
                assert states(client) == [("a", "READY")] * 2 + [("b", "READY")]


def test_the_shadow_writes_into_no_client_s_memory_and_takes_no_part_in_sequences(tmp_path):
    folders = [
        make_bundle(tmp_path / version, model="a", version=version, scores=scores)
        for version, scores in (("1.0.0", (0.1, 0.9)), ("2.0.0", (0.9, 0.1)))
    ]
    with contextlib.closing(SharedMemory(create=True, size=64)) as memory:
        with served(*folders, shadow=("a=2.0.0",)) as server:
            region = "/v2/systemsharedmemory/region/out/register"
            server.client.post(region, json={"key": memory.name, "byte_size": 64}).raise_for_status()
            (output,) = server.client.get("/v2/models/a").json()["outputs"]
            place = {"shared_memory_region": "out", "shared_memory_byte_size": 64}
            name = server.client.get("/v2/models/a").json()["inputs"][0]["name"]
            tensor = {"name": name, "datatype": "FP32", "shape": [1, WINDOW, CHANNELS]}
            tensor["data"] = [0.0] * (WINDOW * CHANNELS)

            def infer(**more):
                given = {"inputs": [tensor], **more}
                answered = server.client.post("/v2/models/a/infer", content=json.dumps(given).encode())
                assert answered.status_code == 200

            def row():
                return server.row("a", "1.0.0")["shadow"] or {"skipped": 0, "pairs": 0}

            infer(outputs=[{"name": output["name"], "parameters": place}])
            infer(parameters={"sequence_id": 7, "sequence_start": True})
            assert (row()["skipped"], row()["pairs"]) == (2, 0)
            infer()
            server.until(lambda: row()["pairs"] == 1, "a pair")
            hidden = json.dumps(
                {"inputs": [tensor], "outputs": [{"name": output["name"], "parameters": place}]}
            )
            hidden = hidden.replace("shared_memory_region", "shared\\u005fmemory_region")
            assert server.client.post("/v2/models/a/infer", content=hidden.encode()).status_code == 200
            server.until(lambda: row()["failed"] == 1, "a refusal")
            assert np.frombuffer(bytes(memory.buf[:8]), np.float32).tolist() == pytest.approx([0.1, 0.9])
        memory.unlink()


ENSEMBLE = """
model = "twice"
version = "1.0.0"
outputs = ["y", "side"]
[[step]]
model = "double.onnx"
outputs = { y = "between" }
[[step]]
model = "double.onnx"
inputs = { x = "between" }
[[step]]
model = "a"
inputs = { x = "window" }
outputs = { scores = "side" }
"""


def test_several_models_answer_as_one_name_through_the_whole_protocol(tmp_path):
    make_bundle(tmp_path / "a", model="a")
    make_doubler(tmp_path / "double.onnx")
    (tmp_path / "twice.toml").write_text(ENSEMBLE)
    with served(tmp_path / "twice.toml") as server:
        told = server.client.get("/v2/models/twice").json()
        assert (told["versions"], told["platform"]) == (["1.0.0"], "ensemble")
        shapes = {row["name"]: row["shape"] for row in told["inputs"] + told["outputs"]}
        assert shapes == {"x": [1, 4], "window": [1, WINDOW, CHANNELS], "y": [1, 4], "side": [1, 2]}
        config = server.client.get("/v2/models/twice/config").json()
        steps = config["ensemble_scheduling"]["step"]
        assert [step["model_name"] for step in steps] == ["double", "double", "a"]
        assert steps[1]["input_map"] == {"x": "between"}
        rows = [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [-1.0, 2.0, 0.0, 1.0]},
            {
                "name": "window",
                "datatype": "FP32",
                "shape": shapes["window"],
                "data": [0.0] * WINDOW * CHANNELS,
            },
        ]
        answered = server.client.post("/v2/models/twice/infer", json={"inputs": rows})
        assert {row["name"]: row["data"] for row in answered.json()["outputs"]} == {
            "y": [-4.0, 8.0, 0.0, 4.0],
            "side": pytest.approx([0.1, 0.9]),
        }
        assert server.client.post("/v2/models/twice/infer", json={"inputs": rows[:1]}).status_code == 400
        counts = server.client.get("/v2/models/twice/stats").json()["model_stats"][0]
        assert (counts["inference_count"], counts["inference_stats"]["fail"]["count"]) == (1, 1)
        assert [row["model"] for row in server.row("twice")["steps"]] == ["double", "double", "a"]
        assert server.client.post("/v2/repository/index").json()[0]["name"] == "twice"


def test_an_ensemble_whose_models_do_not_fit_is_an_error_of_the_command(tmp_path):
    make_bundle(tmp_path / "a", model="a")
    make_doubler(tmp_path / "double.onnx")
    text = ENSEMBLE.replace("double.onnx", "a", 1).replace(
        'outputs = { y = "between" }', 'outputs = { scores = "between" }'
    )
    (tmp_path / "twice.toml").write_text(text)
    with pytest.raises(BundleError, match=r"wants 'x' as FP32 \[1, 4\], but 'between' is FP32 \[1, 2\]"):
        serve(ServeOptions((str(tmp_path / "twice.toml"),), Address("127.0.0.1", 0)))


def test_a_split_that_names_no_served_version_is_refused_before_anything_is_opened(tmp_path):
    options = ServeOptions(
        (str(make_bundle(tmp_path / "a", model="a")),), Address("127.0.0.1", 0), split=("a=1.0.0:50,7:50",)
    )
    with pytest.raises(UsageError, match="a 7 is not among the versions"):
        serve(options)
