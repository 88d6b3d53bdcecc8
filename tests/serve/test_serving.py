"""The protocol over real sockets: metadata, inference, repository, limits, access."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest
from scripted import Y, doubling, served

from edgekit.core.errors import AcceleratorLostError, BundleError, InferenceError
from edgekit.core.spec import TensorSpec
from edgekit.serve.address import Address
from edgekit.serve.models import Entry
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access

X = np.arange(8, dtype=np.float32).reshape(2, 4)
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def server():
    half = TensorSpec(name="y", datatype="FP32", shape=(-1, 4))
    with served(
        doubling()[0], doubling("two", "1.0.0")[0], doubling("two", "1.10.0", outputs=(Y, half))[0]
    ) as running:
        yield running


def test_health_and_metadata_are_as_the_protocol_has_them(server):
    get = server.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    told = get("/v2").json()
    assert (told["name"], told["version"]) == ("edgekit", "0")
    tensor = {"datatype": "FP32", "shape": [-1, 4]}
    assert get("/v2/models/double").json() == {
        "name": "double",
        "versions": ["1.0.0"],
        "platform": "scripted",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    assert get("/v2/models/two/versions/1.0.0/ready").json() == {"name": "two", "ready": True}


def test_json_in_json_out(server):
    answered = server.infer(X, id="a")
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "application/json"
    assert answered.json() == {
        "model_name": "double",
        "model_version": "1.0.0",
        "id": "a",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 4], "data": (2 * X).ravel().tolist()},
        ],
    }


def test_binary_in_binary_out(server):
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": X.nbytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answered = server.client.post(
        "/v2/models/double/infer",
        content=header + X.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    length = int(answered.headers["inference-header-content-length"])
    assert json.loads(answered.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": X.nbytes}
    assert answered.content[length:] == (2 * X).tobytes()


def test_a_raw_body_gets_a_binary_answer(server):
    answered = server.client.post(
        "/v2/models/double/infer", content=X.tobytes(), headers={"Inference-Header-Content-Length": "0"}
    )
    assert answered.content.endswith((2 * X).tobytes())


def test_a_body_in_chunks_is_read(server):
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    ).encode()
    answered = server.client.post("/v2/models/double/infer", content=(bytes([b]) for b in body))
    assert answered.json()["outputs"][0]["data"] == [2, 4, 6, 8]


def test_without_a_version_the_newest_by_number_answers(server):
    assert server.infer(X, "two").json()["model_version"] == "1.10.0"
    assert server.client.get("/v2/models/two").json()["versions"] == ["1.0.0", "1.10.0"]


def test_a_picture_in_a_prediction_out(server):
    png = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()

    def post(content, kind):
        return server.client.post("/v2/models/double/infer", content=content, headers={"content-type": kind})

    assert post(png, "image/png").json() == {
        "model_name": "double",
        "model_version": "1.0.0",
        "variant": "first",
        "task": "classify",
        "items": [
            {"label": "cat", "score": 0.5},
        ],
    }
    assert post(png, "image/webp").status_code == 415
    assert post(b"\xff\xd8no", "image/jpeg").status_code == 400
    assert post(png[:30], "image/png").status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/double/versions/9.9.9", 404),
        ("GET", "/v2/models/double/versions", 404),
        ("POST", "/v2/models/../double/infer", 404),
        ("GET", "/v2/models/double/infer", 405),
        ("DELETE", "/v2/models/double", 405),
        ("POST", "/v2/repository/models/other/load", 404),
        ("GET", "/v2/models/%ff%00/ready", 404),
    ],
)
def test_what_is_not_there_is_an_error_document(server, method, path, status):
    answered = server.client.request(method, path)
    assert answered.status_code == status
    assert set(answered.json()) == {"error"}


def test_a_wrong_name_is_answered_with_those_that_are_right(server):
    error = server.client.get("/v2/models/other").json()["error"]
    assert error == "there is no model 'other'; served are double, two"


def test_a_bad_tensor_is_a_400_with_what_was_wanted(server):
    answered = server.client.post("/v2/models/double/infer", json={"inputs": []})
    assert answered.status_code == 400
    assert "missing ['x']" in answered.json()["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_compressed_body_is_refused(server, coding):
    answered = server.client.post(
        "/v2/models/double/infer", content=b"x" * 100, headers={"content-encoding": coding}
    )
    assert answered.status_code == 415


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 40, "0x10", ""])
def test_a_header_length_that_is_no_number_is_refused(server, length):
    answered = server.client.post(
        "/v2/models/double/infer", content=b"{}", headers={"Inference-Header-Content-Length": length}
    )
    assert answered.status_code in (400, 413)


def test_metrics_count_answers_and_stages():
    with served(doubling()[0]) as server:
        server.infer(X)
        server.client.post("/v2/models/double/infer", content=b"no")
        lines = server.client.get("/metrics").text.splitlines()
    labels = 'model="double",version="1.0.0"'
    assert f'edgekit_requests_total{{{labels},code="200"}} 1' in lines
    assert f'edgekit_requests_total{{{labels},code="400"}} 1' in lines
    for stage, count in (("queue", 1), ("infer", 1), ("total", 2)):
        assert f'edgekit_inference_duration_seconds_count{{{labels},stage="{stage}"}} {count}' in lines
        last = f'edgekit_inference_duration_seconds_bucket{{{labels},stage="{stage}",le="+Inf"}} {count}'
        assert last in lines
    named = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    typed = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    parts = {f"{name}{part}" for name in typed for part in ("", "_bucket", "_sum", "_count")}
    assert named <= parts


def test_status_says_why_this_variant(server):
    row = server.client.get("/status").json()["models"][0]
    assert (row["state"], row["variant"], row["why"]) == ("READY", "first", "it is the only one")


def test_unload_and_load():
    offer, opener = doubling()
    with served(offer) as server:
        post, get = server.client.post, server.client.get
        assert post("/v2/repository/models/double/unload").json() == {}
        assert opener.opened[0].is_closed
        assert get("/v2/models/double/ready").status_code == 503
        assert get("/v2/health/ready").status_code == 200  # it is off on purpose
        assert server.infer(X).status_code == 503
        row = {"name": "double", "version": "1.0.0", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert post("/v2/repository/index").json() == [row]
        assert post("/v2/repository/index", json={"ready": True}).json() == []
        refused = post("/v2/repository/models/double/load", json={"parameters": {"config": "{}"}})
        assert refused.status_code == 400
        assert post("/v2/repository/models/double/load").json() == {}
        assert server.infer(X).status_code == 200
        assert len(opener.opened) == 2


def test_every_version_is_unloaded_and_loaded_and_one_that_fails_keeps_no_other_from_it():
    """The newest alone was unloaded, and loading found the other one loaded: it never came back."""
    (old, opener), (new, _) = doubling("two", "1.0.0"), doubling("two", "1.10.0")
    with served(old, new) as server:

        def states():
            return [row["state"] for row in server.client.post("/v2/repository/index").json()]

        assert server.client.post("/v2/repository/models/two/unload").json() == {}
        assert states() == ["UNAVAILABLE"] * 2
        opener.errors.append(BundleError("the bundle is gone"))
        answered = server.client.post("/v2/repository/models/two/load")
        assert (answered.status_code, answered.json()["error"]) == (500, "the bundle is gone")
        assert states() == ["UNAVAILABLE", "READY"]
        assert server.client.post("/v2/repository/models/two/load").json() == {}
        assert states() == ["READY"] * 2
        assert server.client.post("/v2/repository/models/none/load").status_code == 404


def test_a_model_that_cannot_be_loaded_again_says_why_and_makes_the_server_not_ready():
    offer, opener = doubling()
    with served(offer) as server:
        server.client.post("/v2/repository/models/double/unload")
        opener.errors.append(BundleError("the bundle is gone"))
        answered = server.client.post("/v2/repository/models/double/load")
        assert (answered.status_code, answered.json()["error"]) == (500, "the bundle is gone")
        assert server.client.get("/v2/health/ready").status_code == 503
        assert "the bundle is gone" in server.infer(X).json()["error"]


def test_one_failed_inference_is_a_500_and_the_next_is_answered():
    offer, opener = doubling()
    with served(offer) as server:
        opener.opened[0].errors.append(InferenceError("run 1 failed"))
        assert (server.infer(X).status_code, server.infer(X).status_code) == (500, 200)


def test_a_lost_accelerator_brings_another_variant():
    offer, opener = doubling()
    with served(offer) as server:
        opener.opened[0].errors.append(AcceleratorLostError("unplugged"))
        assert server.infer(X).status_code == 503
        answered = server.infer(X)
        while answered.status_code == 503:
            answered = server.infer(X)
        assert answered.status_code == 200
        row = server.client.get("/status").json()["models"][0]
        assert (row["variant"], row["failovers"], row["excluded"]) == ("second", 1, {"first": "unplugged"})


def test_a_variant_that_works_again_answers_the_next_request_and_the_old_one_those_in_work():
    offer, opener = doubling()
    with served(offer) as server, ThreadPoolExecutor(2) as pool:
        old, new = opener.opened[0], opener.open({})
        old.gate.clear()
        first = pool.submit(server.infer, X)
        old.entered.acquire()
        switching = threading.Thread(target=opener.held.switch, args=(new,))
        switching.start()
        while server.client.get("/status").json()["models"][0]["waiting"] == 0:
            assert switching.is_alive()
        second = pool.submit(server.infer, X)
        old.gate.set()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
        switching.join(60)
        assert (len(old.runs), len(new.runs), switching.is_alive()) == (1, 1, False)
        assert "edgekit_returns_total" in server.client.get("/metrics").text


@pytest.mark.parametrize("is_begun", [True, False])
def test_a_model_is_opened_and_closed_by_one_thread(is_begun):
    """Where they differ, OpenVINO frees the signal stack of the thread that opened it."""
    offer, opener = doubling()
    if is_begun:
        with served(offer):
            pass
    else:
        entry = Entry(offer, Limits())
        asyncio.run(entry.load())
        entry.end()
    assert opener.opened[0].is_closed
    assert opener.opened[0].opened_in is opener.opened[0].closed_in
    assert not opener.opened[0].opened_in.is_alive()


def test_a_body_that_is_too_large_is_refused_before_and_while_it_arrives():
    limits = Limits(body_bytes=1000, json_bytes=500)
    with served(doubling()[0], limits=limits) as server:
        binary = {"Inference-Header-Content-Length": "0"}
        path = "/v2/models/double/infer"
        assert server.client.post(path, content=b"x" * 1001, headers=binary).status_code == 413
        pieces = (b"x" * 100 for _ in range(11))
        assert server.client.post(path, content=pieces, headers=binary).status_code == 413
        as_json = server.client.post(path, content=b"x" * 501)
        assert as_json.status_code == 413
        assert "binary" in as_json.json()["error"]
        long_header = {"Inference-Header-Content-Length": "501"}
        assert server.client.post(path, content=b"x" * 600, headers=long_header).status_code == 413
        assert server.app.bodies.held_bytes == 0
        assert server.infer(X).status_code == 200


def test_all_bodies_together_have_a_bound():
    offer, opener = doubling()
    with served(offer, limits=Limits(held_bytes=200, inline_s=0.0)) as server:
        opener.opened[0].gate.clear()
        small = np.zeros((9, 4), np.float32).tobytes()
        head = b"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\n"
        head += b"inference-header-content-length: 0\r\ncontent-length: 144\r\n\r\n"
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as one:
            one.sendall(head + small)
            assert opener.opened[0].entered.acquire(timeout=60)
            answered = server.infer(X)
            assert (answered.status_code, answered.headers["retry-after"]) == (429, "1")
            opener.opened[0].gate.set()
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.infer(np.zeros(4)).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up():
    with served(doubling()[0], limits=Limits(body_s=0.2)) as server:
        port = httpx.URL(server.url).port
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(
                b"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{"
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert server.app.bodies.held_bytes == 0


def test_with_a_token_only_the_health_checks_are_open():
    with served(doubling()[0], access=Access(token=TOKEN)) as server:
        get = server.client.get
        assert get("/v2/health/live").status_code == get("/v2/health/ready").status_code == 200
        for wrong in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            answered = get("/status", headers={"authorization": wrong})
            assert (answered.status_code, answered.headers["www-authenticate"]) == (401, "Bearer")
        assert get("/status", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert server.infer(X).status_code == 401


def test_without_a_token_web_pages_are_refused():
    with served(doubling()[0], access=Access(hosts=frozenset({"127.0.0.1"}))) as server:
        get = server.client.get
        assert get("/v2").status_code == 200
        assert get("/v2", headers={"origin": "http://evil.example"}).status_code == 403
        assert get("/v2", headers={"host": "evil.example"}).status_code == 403
        assert get("/v2", headers={"host": "[::1]:80"}).status_code == 403


def test_a_unix_socket_is_this_users_alone_and_goes_with_the_server(short_path):
    path = short_path / "s"
    access = Access(hosts=frozenset({"127.0.0.1"}))
    with served(doubling()[0], address=Address(uds=path), access=access):
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://device") as client:
            assert client.get("/v2/health/live").status_code == 200
    assert not path.exists()


def test_a_unix_socket_that_a_dead_server_left_is_replaced(short_path):
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    transport = httpx.HTTPTransport(uds=str(path))
    with (
        served(doubling()[0], address=Address(uds=path)),
        httpx.Client(transport=transport, base_url="http://device") as client,
    ):
        assert client.get("/v2/health/live").status_code == 200


def test_a_picture_for_a_model_without_a_decoder_gives_its_tensors():
    offer, opener = doubling()
    png = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    with served(offer) as server:
        opener.opened[0].raw = np.float32([[0.25, 0.75]])
        answered = server.client.post(
            "/v2/models/double/infer", content=png, headers={"content-type": "image/png"}
        )
    assert answered.json()["items"] == []
    assert answered.json()["tensors"] == [
        {"name": "scores", "shape": [1, 2], "datatype": "FP32", "data": [0.25, 0.75]}
    ]
