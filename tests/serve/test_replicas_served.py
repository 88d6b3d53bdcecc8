"""Replicas over HTTP: of three real runtimes, and of variants that are lost, hang or turn wrong."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from bundles import CHANNELS, WINDOW, make_bundle
from replica_offers import until
from scripted import served
from three_runtimes import X, make_three

from edgekit.core.spec import TensorSpec
from edgekit.model.exclusions import Exclusions
from edgekit.model.replicas import replicated
from edgekit.serve.ports import Limits

RETRY_S = (0.05, 0.2)
SPARE = {"id": "spare", "backend": "null"}
RAW = {"Inference-Header-Content-Length": "0"}


@pytest.fixture(scope="module", autouse=True)
def _cache(proved_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", str(proved_cache()))
        yield os.environ["EDGEKIT_CACHE"]


@pytest.fixture(autouse=True)
def _shared_cache(_cache, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", _cache)


def offer(bundle, *names):
    return replicated(str(bundle), 1, Exclusions(RETRY_S), lambda *_: None, names)


def rows(server):
    return server.client.get("/status").json()["models"][0]["replicas"]


class Clients:
    """Some clients that ask one after the other, and what they were answered."""

    def __init__(self, url, path, body, headers, count=8):
        self.answers, self._done = [], threading.Event()
        self._url, self._path, self._asked = url, path, {"content": body, "headers": headers}
        self._pool = ThreadPoolExecutor(count)
        self._futures = [self._pool.submit(self._run) for _ in range(count)]

    def _run(self):
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._done.is_set():
                self.answers.append(client.post(self._path, **self._asked))

    def end(self):
        self._done.set()
        for future in self._futures:
            future.result(60)
        self._pool.shutdown()

    @property
    def statuses(self):
        return [answer.status_code for answer in self.answers]


@pytest.fixture(scope="module")
def three(tmp_path_factory, _cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE", _cache)
        bundle = make_three(tmp_path_factory.mktemp("three") / "relu")
        with served(offer(bundle, "litert", "onnxruntime", "openvino")) as server:
            yield server


def test_three_runtimes_answer_as_one_model(three):
    clients = Clients(three.url, "/v2/models/relu/infer", X.tobytes(), RAW)
    until(lambda: len(clients.answers) >= 300)
    clients.end()
    assert set(clients.statuses) == {200}
    values = [
        np.frombuffer(answer.content[int(answer.headers["inference-header-content-length"]) :], np.float32)
        for answer in clients.answers
    ]
    assert np.allclose(values, values[0], atol=1e-5)
    told = rows(three)
    assert [row["backend"] for row in told] == ["litert", "onnxruntime", "openvino"]
    assert all(row["answered"] for row in told)
    assert sum(row["answered"] for row in told) == len(values)
    statistics = three.client.get("/v2/models/relu/stats").json()["model_stats"][0]
    assert (statistics["inference_count"], statistics["execution_count"]) == (len(values), len(values))
    assert statistics["inference_stats"]["queue"]["count"] == len(values)


def test_metrics_have_a_label_for_each_replica_and_the_configuration_an_instance(three):
    text = three.client.get("/metrics").text
    for name in ("litert", "onnxruntime", "openvino"):
        labels = f'{{model="relu",version="1.0.0",replica="{name}"}}'
        assert f"edgekit_replica_ready{labels} 1\n" in text
        assert f"edgekit_replica_lost_total{labels} 0\n" in text
    groups = three.client.get("/v2/models/relu/config").json()["instance_group"]
    assert [group["name"] for group in groups] == ["litert", "onnxruntime", "openvino"]


def test_each_thread_reads_json_by_a_parser_of_its_own(three):
    """It keeps its memory from one list to the next, which two threads must not share."""
    floats, parsers = three.entries[0].floats, []
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 20_000))
    text = b"[" + b",".join([b"0.5"] * 20_000) + b"]"

    def read():
        assert floats.read(spec, (1, 20_000), text).sum() == 10_000
        parsers.append(floats._parser)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert parsers[0] is not parsers[1]
    assert None not in parsers
    assert floats._parser is None  # of this thread, which has read nothing


def test_one_that_loses_its_accelerator_again_and_again_costs_no_answer(tmp_path):
    bundle = make_bundle(tmp_path / "m", options={"lose_at": 12}, more_variants=(SPARE,))
    with served(offer(bundle, "null", "spare")) as server:
        clients = Clients(server.url, "/v2/models/motion/infer", body(), RAW, 4)
        until(lambda: rows(server)[0]["losses"] >= 2)
        until(lambda: rows(server)[0]["returns"] >= 2)
        clients.end()
        assert set(clients.statuses) == {200}
        told = rows(server)
        assert told[0]["moved"] >= 2
        assert (told[1]["losses"], told[1]["state"]) == (0, "READY")


def test_one_that_hangs_costs_the_one_request_and_comes_back(tmp_path):
    bundle = make_bundle(tmp_path / "m", options={"hang_at": 12}, more_variants=(SPARE,))
    with served(offer(bundle, "null", "spare"), limits=Limits(stuck_s=1.0)) as server:
        clients = Clients(server.url, "/v2/models/motion/infer", body(), RAW, 4)
        until(lambda: rows(server)[0]["losses"] >= 1)
        until(lambda: rows(server)[0]["returns"] >= 1)
        losses = rows(server)[0]["losses"]
        clients.end()
        failed = [answer for answer in clients.answers if answer.status_code != 200]
        assert {answer.status_code for answer in failed} == {503}
        assert 1 <= len(failed) <= rows(server)[0]["losses"]
        assert "replica null: an inference took longer than 1 s" in failed[0].text
        assert losses >= 1


def test_after_four_that_hang_none_is_opened_again(tmp_path):
    """Each leaves a thread and a model that cannot be freed."""
    bundle = make_bundle(tmp_path / "m", options={"hang_at": 12}, more_variants=(SPARE,))
    with served(offer(bundle, "null", "spare"), limits=Limits(stuck_s=1.0)) as server:
        entry = server.entries[0]
        clients = Clients(server.url, "/v2/models/motion/infer", body(), RAW, 4)
        until(lambda: sum(lane.is_busy for lane in entry._hanging) == 4)
        clients.end()
        opener, _ = entry._offers.values()
        opener.forget()
        assert not entry._may_open(opener)
        assert (entry.state, rows(server)[0]["state"]) == ("READY", "UNAVAILABLE")


def body():
    return np.zeros((1, WINDOW, CHANNELS), np.float32).tobytes()
