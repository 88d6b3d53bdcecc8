"""Nearly right requests to the real server: none is a fault of the server's, and none stays in its memory."""

import contextlib
import errno
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from fuzz import request as fuzzed
from hypothesis import HealthCheck, Phase, given, settings
from onnx_bundles import make_site_bundle
from single_model import write_image_bundle, write_window_bundle

import edgekit.backends.tiny
from edgekit.serve.routes import ROUTES

RELU = Path(edgekit.backends.tiny.__file__).parent / "relu.onnx"
pytestmark = pytest.mark.timeout(800)


@pytest.fixture(scope="module")
def server(tmp_path_factory, proved_cache):
    """The address and the process of a server of a tensor, a text, a picture and a sensor model."""
    folder = tmp_path_factory.mktemp("fuzzed")
    bundles = [RELU, make_site_bundle(folder / "site")]
    bundles += [write_image_bundle(folder / "tiny"), write_window_bundle(folder / "shake")]
    words = [
        sys.executable,
        "-m",
        "edgekit.cli.main",
        "serve",
        *map(str, bundles),
        "--port",
        "0",
        "--threads",
        "1",
    ]
    log = folder / "log"
    with (
        log.open("w") as written,
        subprocess.Popen(
            [*words, "--jobs", str(folder / "jobs")],
            stderr=written,
            cwd=folder,
            env={**os.environ, "EDGEKIT_CACHE": str(proved_cache())},
        ) as process,
    ):
        try:
            while "serving at " not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            url = log.read_text().split("serving at ")[1].split()[0].rstrip(",")
            with httpx.Client(base_url=url, timeout=60) as client:
                while not all(row["state"] == "READY" for row in client.get("/status").json()["models"]):
                    time.sleep(0.05)
                yield client, process, log
        finally:
            process.terminate()


def answer_of(connection, data, is_last):
    """Send a request; return the status of its answer, and whether the connection goes on."""
    try:
        connection.sendall(data)
        if is_last:
            connection.shutdown(socket.SHUT_WR)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            if not piece:
                return 0, False
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        stated = re.search(rb"(?i)content-length: (\d+)", head)
        while not is_last and stated and len(body) < int(stated[1]):
            body += connection.recv(65536)
    except OSError as error:  # what makes no sense may be dropped
        if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
            raise
        return 0, False
    goes_on = not is_last and stated is not None and b"connection: close" not in head.lower()
    return int(head.split()[1]), goes_on


def memory_mb(process):
    """Return the memory of a server and its models' processes."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in (process.pid, *children)]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in texts) / 1024


def send(server, chance, count):
    """Send requests; return how often each status came."""
    client, _, log = server
    counts, goes_on = {}, False
    with contextlib.ExitStack() as stack:
        for number in range(count):
            data, is_last = fuzzed(chance)
            if not goes_on:
                stack.close()
                at = (client.base_url.host, client.base_url.port)
                connection = stack.enter_context(socket.create_connection(at, 60))
            status, goes_on = answer_of(connection, data, is_last)
            counts[status] = counts.get(status, 0) + 1
            is_refusal = status < 500 or status == 503 or (status == 504 and b"imeout" in data)
            told = f"request {number} is answered {status}: {data[:2000]!r}"
            assert is_refusal, f"{told}\n{log.read_text()[-3000:]}"
    return counts


def right(client):
    """Return the answer to a right request."""
    row = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [-1.0, 2.0] * 8}
    return client.post("/v2/models/relu/infer", json={"inputs": [row]}).json()["outputs"]


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_request_is_a_fault_of_the_server_or_stays_in_its_memory(server, count):
    client, process, _ = server
    models = {row["name"]: row["pid"] for row in client.get("/status").json()["models"]}
    chance, answered = random.Random(19), right(client)
    send(server, chance, count // 10)  # what is loaded and kept once
    before_mb = memory_mb(process)
    counts = send(server, chance, count)
    grown_mb = memory_mb(process) - before_mb
    assert counts[200] > count / 20, "some are right"
    assert counts[400] > count / 10, "most are not"
    assert grown_mb < 25, f"{count} requests left {grown_mb:.0f} MB"
    assert right(client) == answered
    assert {row["name"]: row["pid"] for row in client.get("/status").json()["models"]} == models, (
        "none crashed"
    )


TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": ["FP32", "BYTES", "INT64", "BOOL", "FP16"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {"type": ["number", "string", "boolean", "array"]}},
    },
}
INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "properties": {"priority": {"type": "integer"}}},
        "inputs": {"type": "array", "items": TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
}
VALUES = {"model": ["relu", "site", "tiny", "none"], "region": ["r"], "job": ["j"]}


def described():
    """Return the routes as OpenAPI, with the protocol's documents."""
    paths = {}
    for parts, methods in ROUTES.items():
        names = {"models": "model", "region": "region", "jobs": "job"}
        words = [f"{{{names[parts[at - 1]]}}}" if part == "*" else part for at, part in enumerate(parts)]
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}
            for name, values in VALUES.items()
            if f"{{{name}}}" in words
        ]
        body = {
            "content": {"application/json": {"schema": INFER if "infer" in words else {"type": "object"}}}
        }
        paths["/" + "/".join(words)] = {
            method.lower(): {
                "parameters": parameters,
                "responses": {"default": {"description": "any"}},
                **({"requestBody": body} if method == "POST" else {}),
            }
            for method, action in methods.items()
            if action != "unload"
        }
    return {"openapi": "3.1.0", "info": {"title": "edgekit", "version": "2"}, "paths": paths}


@pytest.mark.parametrize("examples", [5, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_that_schemathesis_makes_of_the_routes_is_a_fault_of_the_server(server, examples, request):
    schemathesis = pytest.importorskip("schemathesis", reason="packaging/venv.sh installs it")
    requests = pytest.importorskip("requests", reason="packaging/venv.sh installs schemathesis")
    client, _, log = server
    schema = schemathesis.openapi.from_dict(described())
    session, tried = requests.Session(), []
    request.addfinalizer(session.close)
    for result in schema.get_all_operations():

        @given(case=result.ok().as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(case):
            answered = case.call(base_url=str(client.base_url), session=session)
            tried.append(answered.status_code)
            assert answered.status_code < 500 or answered.status_code == 503, (
                case.as_curl_command(),
                log.read_text()[-3000:],
            )

        send()
    assert len(tried) >= len(ROUTES)
    assert {200, 400, 404} <= set(tried)
