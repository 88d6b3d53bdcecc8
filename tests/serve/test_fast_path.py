"""Small requests go from the parser to the lane, and nobody can tell but by the time."""

import asyncio
import contextlib
import json
import socket
import threading

import httpx
import numpy as np
import pytest
from scripted import doubling, served

from edgekit.base.lane import Lane
from edgekit.serve.fast_path import with_fast_path
from edgekit.serve.ports import Limits
from edgekit.serve.rounds import Rounds
from edgekit.serve.routes import Access

X = np.arange(4, dtype=np.float32)
TOKEN = "a-token-of-some-length"


@pytest.fixture
def quick():
    """A server of a model that is known to be quick, a connection to it, and its model."""
    offer, opener = doubling()
    limits = Limits(inline_s=10.0, body_s=0.2)
    with served(offer, limits=limits) as server:
        for _ in range(6):
            assert server.infer(X).status_code == 200
        assert server.entries[0].lane.is_quick("infer")
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as connection:
            connection.settimeout(30)
            server.connection = connection
            yield server, opener.opened[0]
        assert server.app.bodies.held_bytes == 0


def request(values=X, path="/v2/models/double/infer", more=""):
    body = np.asarray(values, np.float32).tobytes()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ninference-header-content-length: 0\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def answer(connection, stream=None):
    """Return the status, headers and body of the next answer."""
    stream = stream or connection.makefile("rb")
    status = int(stream.readline().split()[1])
    headers = {}
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers["content-length"]))


def doubled(body, headers):
    return np.frombuffer(body[int(headers["inference-header-content-length"]) :], np.float32).tolist()


def test_an_answer_is_what_the_slow_path_gives(quick):
    server, _ = quick
    server.connection.sendall(request())
    status, headers, body = answer(server.connection)
    assert (status, doubled(body, headers)) == (200, [0, 2, 4, 6])
    assert headers["content-type"] == "application/octet-stream"
    before = server.entries[0].meter.answers[200]
    server.connection.sendall(request([1, 1, 1, 1]))
    assert doubled(*answer(server.connection)[:0:-1]) == [2, 2, 2, 2]
    assert server.entries[0].meter.answers[200] == before + 1


def test_a_body_in_pieces_and_requests_in_one_piece_are_answered(quick):
    server, _ = quick
    whole = request(X)
    server.connection.sendall(whole[:-9])
    server.client.get("/v2/health/live")  # meanwhile the loop has read the first piece
    server.connection.sendall(whole[-9:] + request(X + 1) + request(X + 2)[:-3])
    stream = server.connection.makefile("rb")
    told = [doubled(*answer(None, stream)[:0:-1]) for _ in range(2)]
    server.connection.sendall(request(X + 2)[-3:])
    told.append(doubled(*answer(None, stream)[:0:-1]))
    assert told == [[0, 2, 4, 6], [2, 4, 6, 8], [4, 6, 8, 10]]


def test_a_bad_request_is_refused_and_the_connection_lives_on(quick):
    server, _ = quick
    stream = server.connection.makefile("rb")
    server.connection.sendall(request([1, 2, 3]))
    status, _, body = answer(None, stream)
    assert (status, "multiple of 16" in json.loads(body)["error"]) == (400, True)
    server.connection.sendall(request(X, path="/v2/models/none/infer") + request())
    assert [answer(None, stream)[0] for _ in range(2)] == [404, 200]


def test_a_body_that_stops_is_a_408_as_on_the_slow_path(quick):
    server, _ = quick
    server.connection.sendall(request()[:-1])
    assert answer(server.connection)[0] == 408


def test_a_client_that_hangs_up_in_its_body_leaves_nothing(quick):
    server, _ = quick
    server.connection.sendall(request()[:-1])
    server.client.get("/v2/health/live")
    server.connection.close()
    assert server.infer(X).status_code == 200


def test_requests_to_a_busy_model_wait_and_what_is_not_small_goes_the_usual_way(quick):
    server, model = quick
    model.gate.clear()
    server.entries[0].lane.control(lambda: model.gate.wait(60))  # the lane has something to do
    server.connection.sendall(request())
    assert server.client.get("/v2/health/live").status_code == 200
    model.gate.set()
    assert answer(server.connection)[0] == 200
    large = np.zeros((1 << 17, 4), np.float32)
    server.connection.sendall(request(large))
    assert answer(server.connection)[0] == 200
    server.connection.sendall(request(more="expect: 100-continue\r\n"))
    stream = server.connection.makefile("rb")
    assert (stream.readline(), stream.readline()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
    assert answer(None, stream)[0] == 200


def test_a_tensor_that_does_not_fit_is_refused_while_the_model_is_busy(quick):
    server, model = quick
    model.gate.clear()
    began = threading.Event()
    server.entries[0].lane.control(lambda: (began.set(), model.gate.wait(60)))
    assert began.wait(60)
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    header = json.dumps({"inputs": [tensor]}).encode()
    head = "POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\n"
    head += f"inference-header-content-length: {len(header)}\r\ncontent-length: {len(header) + 12}\r\n\r\n"
    server.connection.sendall(head.encode() + header + bytes(12))
    status, _, body = answer(server.connection)
    assert (status, "want FP32 [-1, 4]" in json.loads(body)["error"]) == (400, True)
    assert server.entries[0].lane.is_busy
    model.gate.set()


def test_the_token_is_asked_for_before_a_body_is_kept():
    offer, _ = doubling()
    with served(offer, limits=Limits(inline_s=10.0), access=Access(TOKEN)) as server:
        for _ in range(6):
            server.entries[0].lane.pace("infer").add(1e-6)
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as connection:
            stream = connection.makefile("rb")
            connection.sendall(request())
            assert answer(None, stream)[0] == 401
            connection.sendall(request(more=f"authorization: Bearer {TOKEN}\r\n"))
            assert answer(None, stream)[0] == 200


# -- requests that came in one round of the event loop


@contextlib.contextmanager
def connections(server, count):
    """Yield connections that the event loop has accepted."""
    port = httpx.URL(server.url).port
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for connection in opened:
            connection.settimeout(30)
            connection.sendall(request())
            assert answer(connection)[0] == 200
        yield opened


@contextlib.contextmanager
def held_up(server, model):
    """Hold the event loop in a model that runs there, until the end of the block."""
    model.gate.clear()
    while model.entered.acquire(blocking=False):
        pass
    server.connection.sendall(request())
    assert model.entered.acquire(timeout=60)
    yield
    model.gate.set()
    assert answer(server.connection)[0] == 200


def slowly(model):
    infer = model.infer
    model.infer = lambda feeds: (threading.Event().wait(0.01), infer(feeds))[1]


def test_requests_of_one_round_run_at_once(quick):
    server, model = quick
    sizes = []

    class Together:
        def run(self, requests):
            sizes.append(len(requests))
            return [{"y": 2 * each["x"]} for each in requests]

        def close(self):
            pass

    slowly(model)
    model.batch, model.together = 4, lambda _: Together()
    server.entries[0].lane.call(lambda: server.entries[0].batching.use(model))
    while server.entries[0].batching.joint is None:
        threading.Event().wait(0.005)
    with connections(server, 4) as clients:
        del sizes[:]
        with held_up(server, model):
            for number, client in enumerate(clients):
                client.sendall(request(X + number))
        assert [doubled(*answer(client)[:0:-1])[0] for client in clients] == [0, 2, 4, 6]
    assert sizes == [3]  # the first ran where it was read: nothing had said that more would come


def test_after_a_round_of_several_requests_the_first_of_the_next_waits_for_the_others():
    async def rounds_of(*counts):
        lane, rounds, told = Lane("rounds"), Rounds(), []
        for count in counts:
            rounds.age_s()
            told.append([rounds.may_run(lane, joins=True) for _ in range(count)])
            for _ in range(3):
                await asyncio.sleep(0)
        lane.close()
        return told

    told = asyncio.run(rounds_of(1, 1, 3, 2, 1, 1))
    assert told == [[True], [True], [True, False, False], [False, False], [False], [True]]


def test_where_batches_do_not_pay_the_requests_of_a_round_run_as_they_come_for_five_milliseconds():
    async def rounds_of(*counts):
        now_s = [100.0]
        lane, rounds, told = Lane("rounds"), Rounds(clock=lambda: now_s[0]), []
        for count in counts:
            told.append([])
            for _ in range(count):
                rounds.age_s()
                told[-1].append(rounds.may_run(lane, joins=False))
                now_s[0] += 0.002
            for _ in range(3):
                await asyncio.sleep(0)
        lane.close()
        return told

    told = asyncio.run(rounds_of(1, 5, 2))
    assert told == [[True], [True, True, True, False, False], [True, True]]


def test_a_request_that_is_read_late_says_for_how_long_it_may_have_waited():
    async def ages():
        now_s = [100.0]
        rounds, told = Rounds(clock=lambda: now_s[0]), []
        for took_s in (0.03, 0.02):
            told.append([rounds.age_s(), rounds.age_s()])
            now_s[0] += took_s
            await asyncio.sleep(0)
        now_s[0] += 0.003  # the loop waits
        return [*told, rounds.age_s()]

    told = asyncio.run(ages())
    assert told == [[0, 0], [pytest.approx(0.03)] * 2, 0]


def test_a_quick_request_that_has_waited_unread_for_longer_than_its_timeout_is_not_run(quick):
    server, model = quick
    before, stream = len(model.runs), server.connection.makefile("rb")
    rounds = server.app._inference._rounds
    age_s = rounds.age_s
    rounds.age_s = lambda: age_s() + 1.0
    told = []
    late, early = {"timeout": 500_000}, {"timeout": 2_000_000}
    for parameters, more in (
        (late, ""),
        (early, ""),
        ({}, ""),
        ({}, "x-request-timeout-ms: 500\r\n"),
        (early, "x-request-timeout-ms: 500\r\n"),
        (early, "x-request-timeout-ms: 3000\r\n"),
        ({}, "x-request-timeout-ms: 0\r\n"),
    ):
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 1, 2, 3]}
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        head = f"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\n{more}"
        server.connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        told.append(answer(None, stream)[0])
    assert told == [429, 200, 200, 429, 429, 200, 200]
    assert len(model.runs) == before + 4


@pytest.mark.parametrize("way", ["quick", "slow"])
def test_a_deadline_that_cannot_be_read_is_refused_by_an_idle_model_too(quick, way):
    """It was ignored where the model ran at once, and refused where it was busy."""
    server, model = quick
    before = len(model.runs)
    if way == "quick":
        server.connection.sendall(request(more="x-request-timeout-ms: 1e3\r\n"))
        status, _, body = answer(server.connection)
    else:
        headers = {"inference-header-content-length": "0", "x-request-timeout-ms": "1e3"}
        pieces = iter([X.tobytes()])  # chunked, which uvicorn's way answers
        told = server.client.post("/v2/models/double/infer", content=pieces, headers=headers)
        status, body = told.status_code, told.content
    assert (status, b"whole number of milliseconds" in body, len(model.runs)) == (400, True, before)


@pytest.mark.parametrize("more", ["", "transfer-encoding: chunked\r\n"])
def test_a_client_that_would_rather_speak_http_2_is_answered(quick, more):
    """As Java's is, by default; its body was not read."""
    server, _ = quick
    wish = (
        "connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    )
    sent = request(more=wish + more)
    if more:
        head, _, body = sent.partition(b"\r\n\r\n")
        head = head.replace(b"content-length: 16", b"x: y")
        sent = b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)
    for _ in range(2):
        server.connection.sendall(sent)
        status, headers, body = answer(server.connection)
        assert (status, doubled(body, headers)) == (200, [0, 2, 4, 6])


def test_a_request_whose_client_hangs_up_before_it_begins_is_never_run(quick):
    server, model = quick
    slowly(model)
    with connections(server, 5) as (stays, *leave):
        before = len(model.runs)
        with held_up(server, model):
            stays.sendall(request())
            for client in leave:
                client.sendall(request())
                client.close()
        assert answer(stays)[0] == 200
    assert server.infer(X).status_code == 200
    assert len(model.runs) == before + 3
    assert server.entries[0].lane.counts.cancelled_queued == 4


def test_a_bug_in_a_model_ends_its_connection_and_nothing_else(quick, caplog):
    server, model = quick
    model.errors = [ZeroDivisionError("a bug")]
    server.connection.sendall(request())
    assert server.connection.recv(1) == b""
    assert "a request ended in a bug" in caplog.text
    assert server.infer(X).status_code == 200


def test_another_parser_than_httptools_keeps_its_protocol():
    class Protocol:
        __module__ = "uvicorn.protocols.http.h11_impl"

    assert with_fast_path(Protocol, None, Limits()) is Protocol
