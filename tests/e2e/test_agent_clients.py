"""Official clients, unchanged, in processes of their own, at the address of an agent whose pipelines run."""

import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from agent_stage import AgentStage, wait_for
from bundles import CHANNELS, WINDOW, make_bundle, pipeline_toml
from onnx_bundles import make_doubler, make_site_bundle

CLIENTS = Path(__file__).parent / "clients"
pytestmark = pytest.mark.timeout(600)


ENSEMBLE = """
model = "fourfold"
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
SERVE = """progress_s = 0.2
[serve]
port = 0
grpc_port = 0
[[serve.model]]
name = "fourfold"
bundles = ["../fourfold.toml"]
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory, proofs):
    """A sensor model and a model of texts, each used by a running pipeline, an ensemble, both addresses."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "motor.toml").write_text(pipeline_toml(model=str(make_bundle(folder / "a")), fps=50))
    (folder / "sites.csv").write_text("site\nA\nB\n")
    (folder / "sites.toml").write_text(
        pipeline_toml("sites", str(make_site_bundle(folder / "b"))).replace(
            'kind = "synthetic"\nrealtime = true\nfps = 100.0',
            f'kind = "table"\nuri = "{folder}/sites.csv"\nrealtime = true\nloop = true\nrate_hz = 50',
        )
    )
    pipelines = "".join(f'[[pipeline]]\nfile = "../{name}.toml"\n' for name in ("motor", "sites"))
    make_doubler(folder / "double.onnx")
    (folder / "fourfold.toml").write_text(ENSEMBLE)
    stage = AgentStage(folder / "agent", pipelines, SERVE)
    stage.start(EDGEKIT_CACHE=str(proofs))
    try:
        stage.until(lambda status: len(are_running(status)) == 2, "both pipelines")
        stage.until(lambda status: status["serving"][0]["versions"][0]["state"] == "READY", "the ensemble")
        yield stage
    finally:
        stage.kill()


def are_running(status):
    rows = status["pipelines"].values()
    return [row for row in rows if row["state"] == "running" and row["fps"] > 0]


def address(agent, flavour):
    if flavour == "http":
        return agent.status()["api"][0].removeprefix("http://")
    port = wait_for(lambda: re.search(r"gRPC at port (\d+)", agent.log.read_text()), "the gateway")[1]
    return f"127.0.0.1:{port}"


def run(*command):
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("flavour", ["http", "grpc"])
def test_tritonclient_uses_the_models_of_running_pipelines(agent, flavour):
    motion = run(sys.executable, CLIENTS / "official.py", flavour, address(agent, flavour), "motion", "")
    assert motion["values"] == pytest.approx([0.1, 0.9])
    assert motion["classes"] == ["0.900000:1:moving", "0.100000:0:still"]
    assert motion["configured"] == ["TYPE_FP32"]
    assert motion["success"] >= 6
    assert motion["index"] == {"motion": "READY", "site": "READY", "fourfold": "READY"}
    assert all(later == motion["values"] for later in motion.get("later", []))
    for text, values in (("A", [1.0, 0.0]), ("elsewhere", [0.0, 1.0])):
        site = run(sys.executable, CLIENTS / "official.py", flavour, address(agent, flavour), "site", text)
        assert (site["values"], site["configured"]) == (values, ["TYPE_STRING"])
    both = run(sys.executable, CLIENTS / "official.py", flavour, address(agent, flavour), "fourfold", "")
    assert both["steps"] == ["double", "double", "motion"]
    assert (both["values"], sorted(both["configured"])) == ([0.0] * 4, ["TYPE_FP32"] * 2)
    assert len(are_running(agent.status())) == 2


def test_an_ensemble_beside_running_pipelines_takes_tensors_and_says_so_of_files(agent):
    with httpx.Client(base_url=f"http://{address(agent, 'http')}", timeout=60) as client:
        rows = [
            {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [-1.0, 2.0, 0.0, 1.0]},
            {"name": "window", "datatype": "FP32", "shape": [1, WINDOW, CHANNELS]},
        ]
        rows[1]["data"] = [0.0] * (WINDOW * CHANNELS)
        answered = client.post("/v2/models/fourfold/infer", json={"inputs": rows})
        assert {row["name"]: row["data"] for row in answered.json()["outputs"]} == {
            "y": [-4.0, 8.0, 0.0, 4.0],
            "side": pytest.approx([0.1, 0.9]),
        }
        for kind, what in (("image/png", "images"), ("audio/wav", "sound"), ("text/csv", "tables")):
            refused = client.post("/v2/models/fourfold/infer", content=b"x", headers={"Content-Type": kind})
            assert refused.status_code == 415
            assert f"'fourfold' does not take {what}" in refused.json()["error"]
        metrics = client.get("/metrics").text
        assert 'nv_inference_request_success{model="fourfold",version="1.0.0"}' in metrics
    assert len(are_running(agent.status())) == 2


@pytest.mark.parametrize("script", ["all_at_once.py", "all_at_once.mjs"])
def test_a_thousand_requests_at_once_end_in_answers_or_honest_refusals(agent, script):
    host, port = address(agent, "http").split(":")
    if script.endswith(".py"):
        counts = run(sys.executable, CLIENTS / script, host, port, "motion", 1000)
    elif node := shutil.which("node"):
        counts = run(node, CLIENTS / script, f"http://{host}:{port}/v2/models/motion/infer", 1000)
    else:
        pytest.skip("no node")
    assert sum(counts.values()) == 1000
    assert set(counts) <= {"200", "429"}
    assert counts["200"] > 0
    assert len(are_running(agent.status())) == 2


HEAD = "POST /v2/models/motion/infer HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: 0\r\n"
BODY = bytes(4 * WINDOW * CHANNELS)
REQUEST = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
UNREAD = b"GET /v2/models/motion/config HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20


def ask(connection):
    """Send a request, and read its answer; return the seconds."""
    began_s = time.monotonic()
    connection.sendall(REQUEST)
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    while b"\r\n\r\n" not in answer or not answer.endswith(np.float32([0.1, 0.9]).tobytes()):
        answer += connection.recv(65536)
    return time.monotonic() - began_s


def never_reads(connection):
    """Ask for more than the sockets hold, and read nothing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(100):
            connection.sendall(UNREAD)


def memory_mb(agent):
    pids = [agent.process.pid, *(worker["pid"] for worker in agent.status()["workers"])]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in texts) / 1024


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_slow_silent_and_deaf_clients_harm_nobody(agent, count):
    host, port = address(agent, "http").split(":")
    with contextlib.ExitStack() as stack:

        def connect():
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=60))

        used = connect()
        ask(used)
        before_mb = memory_mb(agent)
        for _ in range(count // 2):
            ask(connect())  # and is idle then
        for _ in range(count // 2):
            connect()  # and says nothing
        for _ in range(20):
            never_reads(connect())
        slow = [connect() for _ in range(20)]
        for each in slow:
            each.sendall(REQUEST[:-10])
        # a machine that stands still delays some; who waits for the slow ones delays all, or all that are new
        for times_s in ([ask(used) for _ in range(100)], [ask(connect()) for _ in range(20)]):
            assert statistics.median(times_s) < 1.0
        grown_mb = memory_mb(agent) - before_mb
        assert grown_mb < 30 + count / 50, f"{count} connections take {grown_mb:.0f} MB"
        for each in slow:
            each.sendall(REQUEST[-10:])
            assert each.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(are_running(agent.status())) == 2


@pytest.mark.slow  # it installs 70 packages
def test_kserve_uses_the_model_of_a_running_pipeline(agent, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "kserve"], check=True)
    python = tmp_path / "kserve/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "kserve"], check=True)
    told = run(python, CLIENTS / "kserve_rest.py", f"http://{address(agent, 'http')}", "motion")
    assert told["ready"] == [True, True, True]
    assert all(values == pytest.approx([0.1, 0.9]) for values in told["values"])
