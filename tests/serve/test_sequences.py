"""Each sequence of requests has its own state, and nobody else sees it."""

import json
import socket

import numpy as np
import pytest
from browser import wait_until
from bundles import make_bundle
from onnx import helper
from onnx_bundles import make_onnx_bundle
from scripted import Scripted, ScriptedHeld, X, doubling, served

from edgekit.core.errors import BusyError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit.model.servable import offer
from edgekit.serve.oip import Step
from edgekit.serve.ports import Offer
from edgekit.serve.sequences import Sequences

SHAPE = [1, 4]
GIVEN = {"name": "h", "datatype": "FP32", "shape": SHAPE, "data": [100.0] * 4}


def sum_bundle(folder):
    """A model that adds what it gets to its state, and answers with the sum."""
    nodes = [
        helper.make_node("Add", ["x", "h"], ["y"]),
        helper.make_node("Identity", ["y"], ["hn"]),
    ]
    rows = [(name, "FP32", SHAPE) for name in ("x", "h", "y", "hn")]
    specs = [{"name": name, "datatype": "FP32", "shape": SHAPE} for name in ("x", "h", "y", "hn")]
    return make_onnx_bundle(
        folder,
        nodes,
        rows[:2],
        rows[2:],
        {},
        model="sum",
        inputs=specs[:2],
        outputs=specs[2:],
        state=[{"input": "h", "output": "hn"}],
        post={"decoder": "raw"},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory, proved_cache):
    folder = tmp_path_factory.mktemp("models")
    hidden = make_bundle(folder / "b", model="hidden", options={"keeps_state": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proved_cache()))
        with served(
            offer(str(sum_bundle(folder / "a")), None), offer(str(hidden), None), doubling()[0]
        ) as running:
            yield running


def ask(server, name=None, *, starts=False, ends=False, value=1.0, more=()):
    """Send a request; return the sum, or the error."""
    tensors = [{"name": "x", "datatype": "FP32", "shape": SHAPE, "data": [value] * 4}, *more]
    sequence = {} if name is None else {"sequence_id": name, "sequence_start": starts, "sequence_end": ends}
    answered = server.client.post(
        "/v2/models/sum/infer", json={"inputs": tensors, "outputs": [{"name": "y"}], "parameters": sequence}
    )
    document = answered.json()
    return document["outputs"][0]["data"][0] if answered.status_code == 200 else document["error"]


def test_sequences_that_alternate_do_not_see_each_other(server):
    assert [ask(server, 1, starts=True), ask(server, "b", starts=True, value=10), ask(server, 1)] == [
        1,
        10,
        2,
    ]
    assert [ask(server, "b", value=10), ask(server), ask(server, 1, ends=True)] == [20, 1, 3]
    assert "sequence 1 is not open" in ask(server, 1)
    assert [ask(server, "b", starts=True), ask(server, "b", ends=True)] == [1, 2]


class Summing(Scripted):
    """Adds what it gets to its state, which ``y`` is; waits while the gate is shut."""

    states = (("h", "y"),)
    optional_inputs = frozenset({"h"})

    def infer(self, feeds):
        self.entered.release()
        self.gate.wait(60)
        return {"y": feeds["x"] + feeds.get("h", 0)}


class Opened(ScriptedHeld):
    def __init__(self):
        state = TensorSpec(name="h", datatype="FP32", shape=(-1, 4))
        self.servable, self.excluded = Summing(inputs=(X, state), keeps_state=True), {}


@pytest.mark.parametrize("way", ["times out", "hangs up"])
def test_a_request_that_is_given_up_while_it_runs_leaves_its_sequence_as_it_was(way):
    with served(Offer("sum", "1.0.0", Opened)) as server:
        model = server.entries[0].servable

        def ask_for(starts=False, **more):
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}
            parameters = {"sequence_id": 1, "sequence_start": starts, **more}
            return {"inputs": [tensor], "parameters": parameters}

        def ask(**more):
            return server.client.post("/v2/models/sum/infer", json=ask_for(**more))

        assert ask(starts=True).json()["outputs"][0]["data"][0] == 1
        assert model.entered.acquire(timeout=60)
        model.gate.clear()
        if way == "times out":
            assert ask(timeout=50_000).status_code == 504
        else:
            host, port = server.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                body = json.dumps(ask_for()).encode()
                line = "POST /v2/models/sum/infer HTTP/1.1"
                head = f"{line}\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body)
                assert model.entered.acquire(timeout=60)
            wait_until(lambda: server.entries[0].lane.counts.cancelled_running == 1)
        model.gate.set()
        assert ask().json()["outputs"][0]["data"][0] == 2


def test_state_that_a_request_sends_replaces_the_sequences(server):
    assert [ask(server, 2, starts=True), ask(server, 2, more=[GIVEN]), ask(server, 2, ends=True)] == [
        1,
        101,
        102,
    ]


def test_a_request_that_fails_leaves_the_sequence_as_it_was(server):
    assert ask(server, 3, starts=True) == 1
    assert "NaN or an infinity" in ask(server, 3, value=3e38, more=[{**GIVEN, "data": [3e38] * 4}])
    assert "want FP32" in ask(
        server, 3, more=[{"name": "h", "datatype": "FP64", "shape": SHAPE, "data": [0] * 4}]
    )
    assert ask(server, 3, ends=True) == 2


def test_what_is_offered_is_said(server):
    assert "sequence" in server.client.get("/v2").json()["extensions"]
    config = server.client.get("/v2/models/sum/config").json()
    assert config["sequence_batching"] == {"max_sequence_idle_microseconds": 60_000_000}
    assert "dynamic_batching" not in config
    assert ask(server, 4, starts=True) == 1
    assert 'edgekit_sequences{model="sum",version="1.0.0"} 1' in server.client.get("/metrics").text
    assert ask(server, 4, ends=True) == 2


def test_a_model_without_state_needs_none_and_a_file_that_hides_it_refuses(server):
    parameters = {"sequence_id": 7, "sequence_start": True}
    assert server.infer(np.ones(4), parameters=parameters).status_code == 200
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16, 2], "data": [0.0] * 32}
    answered = server.client.post(
        "/v2/models/hidden/infer", json={"inputs": [tensor], "parameters": parameters}
    )
    assert (answered.status_code, "keeps its state to itself" in answered.json()["error"]) == (400, True)


class Adding:
    """Says which tensors are state."""

    states = (("h", "hn"),)


def first(name):
    return Step(name, is_first=True, is_last=False)


def following(name):
    return Step(name, is_first=False, is_last=False)


def run(sequences, step):
    """Add one to a sequence's state; return the sum."""
    total = sequences.state_before(step, Adding).get("h", 0) + 1
    sequences.advance(step, Adding, {"hn": total})
    return total


def test_they_are_bounded_in_number_and_idle_ones_are_forgotten():
    now_s = [0.0]
    sequences = Sequences(2, 60.0, clock=lambda: now_s[0])
    run(sequences, first("a"))
    now_s[0] = 10.0
    run(sequences, first("b"))
    now_s[0] = 20.0
    assert run(sequences, following("a")) == 2
    with pytest.raises(BusyError, match="2 sequences are open") as full:
        run(sequences, first("c"))
    assert full.value.wait_s == 50.0
    assert run(sequences, first("b")) == 1
    now_s[0] = 79.0
    assert run(sequences, following("b")) == 2
    now_s[0] = 80.0
    with pytest.raises(TensorError, match="'a' is not open"):
        run(sequences, following("a"))
    assert run(sequences, first("c")) == 1
    assert (len(sequences), sequences.forgotten) == (2, 1)
    sequences.forget()
    assert (len(sequences), sequences.forgotten) == (0, 3)
