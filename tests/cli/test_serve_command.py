"""``edgekit serve`` as a process, with real models and with bundles of the null backend."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from bundles import CHANNELS, WINDOW, make_bundle
from onnx import TensorProto, helper

import edgekit.backends.tiny
from edgekit.backends.tiny import BIASES, WEIGHTS

TINY = Path(edgekit.backends.tiny.__file__).parent
X = np.arange(16, dtype=np.float32).reshape(1, 16)
Y = np.maximum(X @ np.float32(WEIGHTS) + np.float32(BIASES), 0)


@pytest.fixture(scope="module")
def cache(proved_cache):
    """All tests here share what is verified and measured once."""
    return str(proved_cache())


@pytest.fixture
def command(cache, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)

    def begin(*words):
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli.main", "serve", *map(str, words), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "error"},
        )

    return begin


def url_of(process):
    told = []
    for line in process.stderr:
        told.append(line)
        if "serving at " in line:
            return line.split("serving at ")[1].split(",")[0].strip()
    raise AssertionError("".join(told))


def test_the_command_serves_bundles_until_it_is_told_to_stop(command, tmp_path, short_path):
    path = short_path / "socket"
    with command(TINY / "relu.onnx", make_bundle(tmp_path / "b"), "--port", 0, "--uds", path) as process:
        url = url_of(process)
        with httpx.Client(base_url=url) as client:
            index = client.post("/v2/repository/index").json()
            assert {(row["name"], row["state"]) for row in index} == {("relu", "READY"), ("motion", "READY")}
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": X.tolist()}
            got = client.post("/v2/models/relu/infer", json={"inputs": [tensor]}).json()["outputs"][0]
            assert np.allclose(got["data"], Y.ravel())
            window = {"name": "x", "datatype": "FP32", "shape": [1, WINDOW, CHANNELS]}
            window["data"] = [0] * (WINDOW * CHANNELS)
            got = client.post("/v2/models/motion/infer", json={"inputs": [window]}).json()["outputs"][0]
            assert np.allclose(got["data"], [0.1, 0.9])
            rows = {row["name"]: row for row in client.get("/status").json()["models"]}
            assert rows["motion"]["backend"] == "null"
            assert rows["relu"]["why"]
            assert client.get("/v2", headers={"origin": "http://evil.example"}).status_code == 403
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://device") as client:
            assert client.get("/v2/health/ready").json() == {"ready": True}
        process.send_signal(signal.SIGTERM)
        document, rest = process.communicate(timeout=120)
    assert (process.returncode, rest) == (0, "")
    assert json.loads(document) == {"served": [url, f"unix:{path}"], "signal": "SIGTERM"}
    assert not path.exists()


def test_a_stop_while_models_are_opened_ends_every_process(command, tmp_path):
    slow = [make_bundle(tmp_path / name, model=name, options={"load_ms": 20_000}) for name in ("a", "b")]
    with command(*slow, "--port", 0) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(children.read_text().split()) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        document, shown = process.communicate(timeout=120)  # the hosts have closed its pipes, too
    assert (process.returncode, json.loads(document)) == (0, {"served": [], "signal": "SIGTERM"})
    assert "Traceback" not in shown


def test_an_interrupt_is_130(command, tmp_path, short_path):
    with command(make_bundle(tmp_path / "b"), "--uds", short_path / "s") as process:
        assert url_of(process) == f"unix:{short_path / 's'}"
        process.send_signal(signal.SIGINT)
        document, _ = process.communicate(timeout=120)
    assert (process.returncode, json.loads(document)["signal"]) == (130, "SIGINT")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--host", "0.0.0.0"], 2, "--token-file"),
        (["--host", "::"], 2, "no token"),
        (["--token-file", "{tmp}/short"], 3, "at least 16"),
        (["--token-file", "{tmp}/none"], 3, "cannot be read"),
        (["--port", "70000"], 2, "65535"),
        (["--tls-cert", "x"], 2, "--tls-key"),
        (["--threads", "0"], 2, "from 1"),
        (["{tmp}/b"], 2, "named twice"),
        (["{tmp}/nothing.ekb"], 4, "no such bundle"),
        (["--port", "{taken}"], 3, "in use"),
    ],
)
def test_what_cannot_be_served_is_an_error_of_the_command(command, tmp_path, words, code, told):
    bundle = make_bundle(tmp_path / "b")
    (tmp_path / "short").write_text("secret\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [word.format(tmp=tmp_path, taken=port) for word in words]
        process = command(bundle, *words)
        document, shown = process.communicate(timeout=120)
    assert process.returncode == code, shown
    error = json.loads(document)["error"]
    assert told in " ".join((error["message"], error["hint"]))


def test_on_every_interface_the_token_is_asked_for(command, tmp_path):
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    words = ("--host", "0.0.0.0", "--port", 0, "--token-file", tmp_path / "token")
    with command(make_bundle(tmp_path / "b"), *words) as process:
        port = httpx.URL(url_of(process)).port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/status").status_code == 401
            bearer = {"authorization": "Bearer a-token-of-some-length"}
            assert client.get("/status", headers=bearer).status_code == 200
        process.terminate()
        process.communicate(timeout=120)


def test_a_model_of_complex_numbers_is_an_error_of_the_command_with_a_reason_for_each_runtime(
    command, tmp_path
):
    given = helper.make_tensor_value_info("x", TensorProto.COMPLEX64, [1, 2])
    same = helper.make_tensor_value_info("y", TensorProto.COMPLEX64, [1, 2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [given], [same])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, tmp_path / "complex.onnx")
    process = command(tmp_path / "complex.onnx", "--port", 0)
    document, shown = process.communicate(timeout=120)
    error = json.loads(document)["error"]
    assert (process.returncode, error["code"]) == (4, "model.no_variant"), shown
    assert [reason.partition(":")[0] for reason in error["reasons"]] == ["onnxruntime-file", "openvino-file"]
