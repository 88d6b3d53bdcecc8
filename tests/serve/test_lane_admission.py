"""Who is answered when there is more to do than can be done: honest refusals, order, room for connections."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.core.errors import BackendError, InferenceError
from edgekit.serve.connections import ANSWERED, IDLE, READING, Connections
from edgekit.serve.ports import Limits

X = np.ones(4, np.float32)


@pytest.fixture
def held():
    """A server of one model that waits for its test."""
    offer, opener = doubling()
    with served(offer, limits=Limits(inline_s=0.0)) as server, ThreadPoolExecutor(16) as pool:
        model = opener.opened[0]
        model.gate.clear()
        server.pool = pool
        yield server, model
        model.gate.set()


def begin(server, model, values=X, **more):
    future = server.pool.submit(server.infer, values, **more)
    assert model.entered.acquire(timeout=60)
    return future


def queue(server, values, **more):
    """Send a request, and wait until it waits."""
    lane, depth = server.entries[0].lane, server.entries[0].lane.depth
    future = server.pool.submit(server.infer, values, **more)
    while lane.depth == depth:
        threading.Event().wait(0.001)
    return future


def order(model):
    return [float(run["x"][0, 0]) for run in model.runs]


def test_one_is_the_highest_priority_and_nine_the_lowest(held):
    server, model = held
    futures = [begin(server, model, X * 0)]
    asked = ((1, {}), (2, {"priority": 9}), (3, {"priority": 1}), (4, {"priority": 5}), (5, {"priority": 0}))
    futures += [queue(server, X * number, parameters=parameters) for number, parameters in asked]
    model.gate.set()
    assert [each.result(60).status_code for each in futures] == [200] * 6
    assert order(model) == [0, 3, 1, 4, 5, 2]


@pytest.mark.parametrize("priority", [10, -1, 1.5, True, "1"])
def test_another_priority_is_a_400(held, priority):
    server, model = held
    model.gate.set()
    answered = server.infer(X, parameters={"priority": priority})
    assert answered.status_code == 400
    assert "priority" in answered.json()["error"]


def test_the_timeout_of_the_header_counts_as_that_of_the_parameter_does_and_the_shorter_wins(held):
    server, model = held
    begin(server, model)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [7, 7, 7, 7]}]}

    def post(header, **more):
        return server.client.post(
            "/v2/models/double/infer", json={**body, **more}, headers={"X-Request-Timeout-Ms": header}
        ).status_code

    assert post("30") == 504
    assert post("60000", parameters={"timeout": 30_000}) == 504
    assert [post(header) for header in ("", "soon", "-1", "1.5")] == [400] * 4
    model.gate.set()


def test_a_client_that_names_itself_has_its_own_share(held):
    server, model = held
    server.entries[0].lane.pace("infer").add(10.0)
    futures = [begin(server, model, X * 0)]
    futures += [queue(server, X * 1) for _ in range(8)]
    server.client.headers["X-Edgekit-Client"] = "control"
    futures.append(queue(server, X * 2))
    model.gate.set()
    assert {each.result(60).status_code for each in futures} == {200}
    assert order(model).index(2) <= 2


def test_a_thousand_requests_at_once_are_all_answered():
    """As a web page's ``Promise.all`` sends them: each on a connection of its own, at the same moment."""
    offer, opener = doubling()
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}]})
    head = f"POST /v2/models/double/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"

    async def one(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write((head + body).encode())
        status = int((await reader.readuntil(b"\r\n\r\n"))[9:12])
        writer.close()
        return status

    async def all_of(port):
        return await asyncio.gather(*(one(port) for _ in range(300)))

    with served(offer, limits=Limits(inline_s=0.0)) as server:
        port = server.client.base_url.port
        opener.opened[0].gate.clear()
        threading.Timer(0.2, opener.opened[0].gate.set).start()
        assert asyncio.run(all_of(port)) == [200] * 300


# -- connections


class Protocol:
    """A connection as uvicorn has it."""

    def __init__(self, is_answering=False, unread_bytes=0):
        self.cycle = type("Cycle", (), {"response_complete": not is_answering})()
        self.flow = type("Flow", (), {"write_paused": unread_bytes > 0})()
        self.transport, self.unread_bytes, self.is_gone = self, unread_bytes, False

    def get_write_buffer_size(self):
        return self.unread_bytes

    def abort(self):
        self.is_gone = True


def connections(opened, most=3, clock=lambda: 0.0):
    return Connections(lambda: {each for each in opened if not each.is_gone}, most, 60.0, 30.0, clock)


def test_an_idle_connection_makes_room_and_one_that_is_answered_does_not():
    opened = [Protocol(is_answering=True) for _ in range(2)] + [Protocol()]
    looked_after = connections(opened)
    assert looked_after.has_room()
    assert [each.is_gone for each in opened] == [False, False, True]
    opened.append(Protocol(is_answering=True))
    assert not looked_after.has_room()
    assert looked_after.given_up == 1


def test_the_connection_that_was_idle_for_longest_makes_room():
    now_s = [0.0]
    opened = [Protocol(), Protocol()]
    looked_after = connections(opened, clock=lambda: now_s[0])
    looked_after.look()
    now_s[0] += 1
    opened.insert(0, Protocol())
    assert looked_after.has_room()
    assert [each.is_gone for each in opened].count(True) == 1
    assert not opened[0].is_gone


def test_who_reads_nothing_and_who_asks_nothing_is_given_up_after_a_while():
    now_s = [0.0]
    idle, reading, slow, busy = Protocol(), Protocol(unread_bytes=9), Protocol(unread_bytes=9), Protocol(True)
    looked_after = connections([idle, reading, slow, busy], clock=lambda: now_s[0])
    for second in range(0, 40, 5):
        now_s[0] = second
        slow.unread_bytes += 1
        looked_after.look()
    assert [each.is_gone for each in (idle, reading, slow, busy)] == [False, True, False, False]
    now_s[0] = 61.0
    looked_after.look()
    assert (idle.is_gone, busy.is_gone) == (True, False)
    assert {IDLE, READING, ANSWERED} >= {state for state, _, _ in looked_after._since.values()}


# -- batches


class Together:
    """Runs several requests of a scripted model at once."""

    def __init__(self, model, error=None):
        self.model, self.error, self.sizes, self.is_closed = model, error, [], False

    def run(self, requests):
        self.sizes.append(len(requests))
        if self.error is not None:
            raise self.error
        return [{"y": 2 * each["x"]} for each in requests]

    def close(self):
        self.is_closed = True


def batching(together, **more):
    """Serve a model whose batch always pays, since alone it waits for its test."""
    made = []

    def make(model):
        made.append(together(model))
        return made[-1]

    offer, opener = doubling(batch=4, together=make, **more)
    return offer, opener, made


def wait_for_batches(server):
    batching = server.entries[0].batching
    while batching.joint is None and "measured" in batching.status()["why"]:
        threading.Event().wait(0.005)
    return batching


def slowly(model):
    infer = model.infer
    model.infer = lambda feeds: (threading.Event().wait(0.01), infer(feeds))[1]


def test_requests_that_wait_run_at_once_and_each_gets_its_own_answer():
    offer, opener, made = batching(Together)
    with served(offer, limits=Limits(inline_s=0.0)) as server, ThreadPoolExecutor(16) as pool:
        model = opener.opened[0]
        slowly(model)
        server.entries[0].lane.call(lambda: server.entries[0].batching.use(model))
        assert wait_for_batches(server).joint is not None
        del made[-1].sizes[:]
        server.pool = pool
        while model.entered.acquire(blocking=False):
            pass
        model.gate.clear()
        futures = [begin(server, model, X * 0), *(queue(server, X * number) for number in range(1, 5))]
        model.gate.set()
        answers = [each.result(60).json()["outputs"][0]["data"][0] for each in futures]
        assert answers == [0, 2, 4, 6, 8]
        assert made[-1].sizes == [4]
        row = server.client.get("/status").json()["models"][0]["batch"]
        assert (row["most"], row["batches"], row["requests"]) == (4, 1, 4)
    assert made[-1].is_closed


def test_a_bad_request_in_a_batch_is_its_own_senders_error():
    offer, opener, made = batching(Together)
    with served(offer, limits=Limits(inline_s=0.0)) as server, ThreadPoolExecutor(16) as pool:
        model = opener.opened[0]
        slowly(model)
        server.entries[0].lane.call(lambda: server.entries[0].batching.use(model))
        wait_for_batches(server)
        server.pool = pool
        while model.entered.acquire(blocking=False):
            pass
        model.gate.clear()
        bad = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1]}]}
        futures = [begin(server, model), queue(server, X)]
        futures.append(pool.submit(server.client.post, "/v2/models/double/infer", json=bad))
        while server.entries[0].lane.depth < 2:
            threading.Event().wait(0.001)
        made[-1].error = InferenceError("not together")
        model.gate.set()
        assert [each.result(60).status_code for each in futures] == [200, 200, 400]


@pytest.mark.parametrize(
    ("together", "why"),
    [
        (Together, "4 at once took"),
        (lambda model: Together(model, InferenceError("it has no rows")), "it has no rows"),
        (lambda model: (_ for _ in ()).throw(BackendError("built for one")), "built for one"),
    ],
)
def test_a_batch_that_does_not_pay_or_cannot_be_opened_is_left_with_the_reason(together, why):
    offer, _, made = batching(together)

    class Slow(Together):
        def run(self, requests):
            threading.Event().wait(0.02)
            return super().run(requests)

    if together is Together:
        offer, _, made = batching(Slow)
    with served(offer, limits=Limits(inline_s=0.0)) as server:
        assert wait_for_batches(server).joint is None
        row = server.client.get("/status").json()["models"][0]["batch"]
        assert (row["most"], why in row["why"]) == (1, True)
        assert server.infer(X).status_code == 200
    assert all(each.is_closed for each in made)
