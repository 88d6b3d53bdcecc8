"""More work than a model can do: refused early, given up when nobody waits, never piled up."""

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from scripted import doubling, served

from edgekit.base.lane import Lane
from edgekit.core.errors import AcceleratorLostError, InferenceError
from edgekit.serve.connections import MOST_AHEAD
from edgekit.serve.models import Entry
from edgekit.serve.ports import Limits

X = np.ones(4, np.float32)


@pytest.fixture
def held():
    """A server of one model that waits for its test, with room for two more requests of one client."""
    offer, opener = doubling()
    with (
        served(offer, limits=Limits(waiting=4, inline_s=0.0)) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        model = opener.opened[0]
        model.gate.clear()
        server.pool = pool
        yield server, model
        model.gate.set()


def begin(server, model, values=X, **more):
    """Send a request that the model has begun."""
    future = server.pool.submit(server.infer, values, **more)
    assert model.entered.acquire(timeout=60)
    return future


def silent(server):
    """Return a connection."""
    connection = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port))
    connection.settimeout(60)
    return connection


def connect(server, values=X):
    """Send a request by hand; return the connection."""
    body = np.asarray(values, np.float32).tobytes()
    connection = silent(server)
    head = (
        "POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 0\r\n"
    )
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def wait_for(server, line):
    """Ask for the metrics until a line is there: the server is what says that something happened."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if line in server.client.get("/metrics").text.splitlines():
            return
    raise AssertionError(f"{line} never came:\n{server.client.get('/metrics').text}")


LABELS = 'model="double",version="1.0.0"'


def test_beyond_the_queue_is_a_429_that_says_when_to_come_back(held):
    server, model = held
    running = begin(server, model)
    queued = [server.pool.submit(server.infer, X) for _ in range(2)]
    wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 2")
    answered = server.infer(X)
    assert answered.status_code == 429
    assert int(answered.headers["retry-after"]) >= 1
    wait_for(server, f"edgekit_shed_total{{{LABELS}}} 1")
    model.gate.set()
    assert [each.result(60).status_code for each in (running, *queued)] == [200] * 3
    assert len(model.runs) == 3


def test_a_client_that_hangs_up_takes_its_queued_work_along(held):
    server, model = held
    running = begin(server, model)
    gone = connect(server, X * 7)
    wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 1")
    gone.close()
    wait_for(server, f'edgekit_cancelled_total{{{LABELS},when="queued"}} 1')
    wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 0")
    model.gate.set()
    assert running.result(60).status_code == 200
    assert server.infer(X * 2).status_code == 200
    assert [run["x"][0, 0] for run in model.runs] == [1, 2]  # 7 never ran
    wait_for(server, f'edgekit_requests_total{{{LABELS},code="499"}} 1')


def test_a_client_that_hangs_up_while_its_work_runs_is_counted(held):
    server, model = held
    gone = connect(server)
    assert model.entered.acquire(timeout=60)
    gone.close()
    wait_for(server, f'edgekit_cancelled_total{{{LABELS},when="running"}} 1')
    model.gate.set()
    assert server.infer(X).status_code == 200


def test_forty_clients_that_give_up_cost_the_model_nothing():
    """Peers run all 40 of these: LitServe, MLServer, KServe and BentoML did, when measured."""
    offer, opener = doubling()
    with served(offer, limits=Limits(waiting=128, inline_s=0.0)) as server:
        model = opener.opened[0]
        model.gate.clear()
        gone = [connect(server) for _ in range(40)]
        wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 39")
        for connection in gone:
            connection.close()
        wait_for(server, f'edgekit_cancelled_total{{{LABELS},when="queued"}} 39')
        model.gate.set()
        assert server.infer(X).status_code == 200
        assert len(model.runs) == 2


def test_a_timeout_that_passes_is_a_504_and_its_queued_work_never_runs(held):
    server, model = held
    running = begin(server, model)
    late = server.infer(X * 7, parameters={"timeout": 50_000})
    assert late.status_code == 504
    model.gate.set()
    assert running.result(60).status_code == 200
    assert server.infer(X).status_code == 200
    assert len(model.runs) == 2
    wait_for(server, f"edgekit_deadline_missed_total{{{LABELS}}} 1")


def test_a_timeout_that_passes_while_the_model_runs_is_answered_at_once(held):
    server, model = held
    assert server.infer(X, parameters={"timeout": 50_000}).status_code == 504
    model.gate.set()
    assert server.infer(X).status_code == 200


def test_a_timeout_that_cannot_be_met_is_refused_at_once(held):
    server, model = held
    server.entries[0].lane.pace("infer").add(10.0)  # as if the model had been seen to take 10 s
    answered = server.infer(X, parameters={"timeout": 1_000_000})
    assert (answered.status_code, len(model.runs)) == (429, 0)
    assert "the timeout is 1.000 s" in answered.json()["error"]


def test_what_waits_is_answered_before_the_model_is_unloaded(held):
    server, model = held
    running = begin(server, model)
    queued = server.pool.submit(server.infer, X)
    wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 1")
    unloading = server.pool.submit(server.client.post, "/v2/repository/models/double/unload")
    wait_for(server, f"edgekit_model_ready{{{LABELS}}} 0")
    assert server.infer(X).status_code == 503
    model.gate.set()
    assert [each.result(60).status_code for each in (running, queued, unloading)] == [200, 200, 200]
    assert model.is_closed


def test_what_waits_while_an_accelerator_is_lost_is_answered_by_the_next_variant(held):
    server, model = held
    running = begin(server, model)
    queued = [server.pool.submit(server.infer, X) for _ in range(2)]
    wait_for(server, f"edgekit_queue_depth{{{LABELS}}} 2")
    model.errors.append(AcceleratorLostError("unplugged"))
    model.gate.set()
    assert [each.result(60).status_code for each in (running, *queued)] == [503, 200, 200]
    row = server.client.get("/status").json()["models"][0]
    assert (row["variant"], row["failovers"], model.is_closed) == ("second", 1, True)


def test_requests_share_the_lane_of_an_owner_who_runs_a_pipeline_on_it():
    """The owner swaps the model for all users at one boundary, and closes it."""
    offer, opener = doubling()
    lane, frames = Lane("shared"), []
    entry = Entry(offer, Limits(inline_s=0.0), lane)
    asyncio.run(entry.load())
    stream = lane.stream(
        lambda frame: frames.append(entry.servable.infer({"x": frame})), is_live=False, capacity=9
    )
    for _ in range(9):
        stream.put(X)
    work = lambda servable: servable.infer({"x": X})["y"]
    assert lane.result(lane.submit([lambda: entry.run(work)], kind="infer"))[0].tolist() == [2, 2, 2, 2]
    new = opener.open({})
    lane.call(lambda: entry.use(new))
    assert lane.result(lane.submit([lambda: entry.run(lambda servable: servable is new)], kind="infer")) == [
        True
    ]
    stream.close()
    stream.wait_spent()
    entry.end()
    assert len(frames) == 9
    assert lane.call(threading.current_thread).name == "shared"
    lane.close()


def test_a_model_that_hangs_is_not_ready_and_the_server_still_ends():
    offer, opener = doubling()
    with served(offer, limits=Limits(stuck_s=0.05, inline_s=0.0)) as server:
        model = opener.opened[0]
        model.gate.clear()
        connection = connect(server)
        assert model.entered.acquire(timeout=60)
        wait_for(server, f"edgekit_model_ready{{{LABELS}}} 0")
        assert server.client.get("/v2/health/ready").status_code == 503
        assert server.client.get("/v2/health/live").status_code == 200
        connection.close()
        threading.Timer(0.2, model.gate.set).start()


def test_a_quick_model_moves_to_the_event_loop_and_a_slow_one_does_not():
    offer, opener = doubling()
    with served(offer, limits=Limits(inline_s=5.0)) as server:
        model = opener.opened[0]
        infer = model.infer
        seen = []
        model.infer = lambda feeds: (seen.append(threading.current_thread().name), infer(feeds))[1]
        for _ in range(7):
            server.infer(X)
        assert seen == ["model-double"] * 5 + ["serve"] * 2
        model.errors.append(InferenceError("no"))
        assert [server.infer(X).status_code for _ in range(2)] == [500, 200]
        server.entries[0].lane.pace("infer").add(1000.0)
        server.infer(X)
        assert seen[-1] == "model-double"


def test_a_connection_with_too_many_requests_ahead_is_closed_and_the_others_are_answered(held):
    server, model = held
    one = b"GET /v2/models/double/config HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connect(server) as greedy:  # its first request waits for the model
        assert model.entered.acquire(timeout=60)
        greedy.settimeout(60)
        with contextlib.suppress(ConnectionError):
            greedy.sendall(one * (MOST_AHEAD + 2))
            assert greedy.recv(1000) == b""
    assert server.client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("ahead", [0, 1, MOST_AHEAD])
def test_a_client_that_hangs_up_is_noticed_whatever_it_has_sent_ahead(held, caplog, ahead):
    """The last of its requests heard of it; the first ran to its end, and was written to what was closed."""
    server, model = held
    body = X.tobytes()
    head = (
        b"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 0\r\n"
    )
    first = b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)
    with silent(server) as client:
        client.sendall(first + b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n" * ahead)
        assert model.entered.acquire(timeout=60)
    wait_for(server, f'edgekit_cancelled_total{{{LABELS},when="running"}} 1')
    model.gate.set()
    assert server.infer(X).status_code == 200
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


HEAD = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /", b"a" * 1000),
        (HEAD + b"x: ", b"a" * 1000),
        (HEAD, b"x: " + b"a" * 995 + b"\r\n"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"x: " + b"a" * 995 + b"\r\n"),
        (CHUNKED, b"0" * 1000),
    ],
    ids=["address", "a header", "headers", "trailers", "a chunk's length"],
)
def test_what_comes_before_or_after_a_body_has_a_bound(held, begin, more):
    server, model = held
    sent, received = 0, b""
    with silent(server) as endless:
        with contextlib.suppress(ConnectionError):
            endless.sendall(begin)
            while sent < 64 << 20:
                endless.sendall(more)
                sent += len(more)
        with contextlib.suppress(ConnectionError):
            received = endless.recv(1000)
    assert sent < 32 << 20, "what the sockets hold, and no more"
    assert received == b"" or received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert server.client.get("/v2/health/live").status_code == 200
    model.gate.set()


def test_a_long_head_that_ends_and_a_long_body_in_small_pieces_are_no_endless_head(held):
    server, model = held
    model.gate.set()
    body = np.zeros((8192, 4), np.float32).tobytes()
    head = b"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 60_000
    head += b"\r\ninference-header-content-length: 0\r\ncontent-length: %d\r\n\r\n" % len(body)
    with silent(server) as client:
        for piece in (head[:40_000], head[40_000:], *(body[at : at + 1024] for at in range(0, 131072, 1024))):
            client.sendall(piece)
        assert client.recv(17) == b"HTTP/1.1 200 OK\r\n"
