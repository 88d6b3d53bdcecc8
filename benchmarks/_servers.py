"""The servers of ``serving_vs_peers.py``: how each is installed, started and asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from edgekit.base.paths import cache_dir

HERE = Path(__file__).parent / "peers"
PEERS = {
    "mosec": ("mosec==0.9.8",),
    "litserve": ("litserve==0.2.19",),
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22"),
    "bentoml": ("bentoml==1.4.40",),
    "kserve": ("kserve==0.21.0",),
    "ray": ("ray[serve]==2.60.0",),
    "pytriton": ("nvidia-pytriton==0.7.0",),
}
SENSOR = {
    "format": 1, "model": "sensor", "version": "1.0.0", "task": "sensor",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16, 2]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
    "pre": {"resize": "none", "window": 16, "hop": 16},
    "post": {"decoder": "classify", "options": {"activation": "none"}},
    "variants": [{"id": "null", "backend": "null", "options": {
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 16, 2]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.1, 0.9]]}},
    }}],
}  # fmt: skip
"""What the agent's pipeline runs while its address is asked: next to no work."""
PIPELINE = """[pipeline]
name = "sensor"
model = "sensor"
[source]
kind = "synthetic"
realtime = true
fps = 320
[privacy]
egress = ["labels"]
"""
AGENT = """[agent]
state = "state"
[[pipeline]]
file = "sensor.toml"
[serve]
port = {port}
[[serve.model]]
name = "{name}"
bundles = ["{bundle}"]
"""


@dataclass(frozen=True)
class Subject:
    """A server: how it is started, and what a request to it is."""

    name: str
    command: list[str]
    environment: dict[str, str]
    request: bytes
    folder: str


def post(path, body, *headers):
    """Return a request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def environment_of(name):
    """Return the Python of a peer's environment, made where it is missing.

    Raises:
        RuntimeError: It cannot be installed.
    """
    folder = cache_dir() / "serving-peers" / name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *PEERS[name]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if ended.returncode:
            raise RuntimeError(f"it does not install: {ended.stderr.strip().splitlines()[-1]}")
        # behind its own packages: the runtime, the same for all
        site = next((folder / "lib").glob("python*/site-packages"))
        ours = Path(np.__file__).parent.parent
        (site / "edgekit-yardstick.pth").write_text(f"{ours}\n")
        done.touch()
    return str(python)


def subject(name, model, array, port, folder):
    """Return one server of one model."""
    if name == "edgekit":
        words = ["-m", "edgekit.cli.main", "serve", str(model.with_suffix("")), "--port", str(port)]
        request = binary_request(model.stem, array)
        return Subject(name, [sys.executable, *words, "--threads", "1"], {}, request, folder)
    if name == "agent":
        write_agent(Path(folder), port, model)
        words = ["-m", "edgekit.cli.main", "agent", "run", "--config", str(Path(folder) / "agent.toml")]
        return Subject(name, [sys.executable, *words], {}, binary_request(model.stem, array), folder)
    if name == "bare_asgi":
        command = [sys.executable, str(HERE / "bare_asgi.py"), str(port), str(model)]
        return Subject(name, command, {}, post("/", array.tobytes()), folder)
    python = environment_of(name)
    command = [python, str(HERE / f"{name}_peer.py"), str(port), str(model)]
    environment, request = {}, post("/", array.tobytes())
    if name == "mosec":
        command = [python, str(HERE / "mosec_peer.py"), "--port", str(port), "--address", "127.0.0.1"]
        environment, request = {"PEER_MODEL": str(model)}, post("/inference", array.tobytes())
    elif name == "litserve":
        request = json_request("/predict", {"data": array.ravel().tolist()})
    elif name == "bentoml":
        words = ["-m", "bentoml", "serve", "bentoml_peer:Peer", "--working-dir", str(HERE)]
        command = [python, *words, "--host", "127.0.0.1", "--port", str(port)]
        environment = {"PEER_MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True"}
        request = json_request("/infer", {"data": array.tolist()})
    elif name == "pytriton":
        request = binary_request("m", array)
    elif name in ("mlserver", "kserve"):
        tensor = {"name": "x", "datatype": "FP32", "shape": list(array.shape)}
        request = json_request("/v2/models/m/infer", {"inputs": [{**tensor, "data": array.ravel().tolist()}]})
    if name == "mlserver":
        write_mlserver_settings(Path(folder), port, model)
        command = [str(Path(python).with_name("mlserver")), "start", str(folder)]
        environment = {"PYTHONPATH": str(HERE)}
    return Subject(name, command, environment, request, folder)


def binary_request(model, array):
    """Return a request of the protocol with a binary tensor."""
    row = {"name": "x", "datatype": "FP32", "shape": list(array.shape)}
    row["parameters"] = {"binary_data_size": array.nbytes}
    header = json.dumps({"inputs": [row], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(header)}"
    return post(f"/v2/models/{model}/infer", header + array.tobytes(), length)


def json_request(path, document):
    """Return a request of a JSON document."""
    return post(path, json.dumps(document).encode(), "Content-Type: application/json")


def write_agent(folder, port, model):
    """Write an agent whose pipeline runs a model of its own."""
    (folder / "sensor").mkdir()
    (folder / "sensor" / "bundle.json").write_text(json.dumps(SENSOR))
    (folder / "sensor.toml").write_text(PIPELINE)
    bundle = model.with_suffix("")
    (folder / "agent.toml").write_text(AGENT.format(port=port, name=model.stem, bundle=bundle))


def write_mlserver_settings(folder, port, model):
    """Write what MLServer is started with: one process, on free ports."""
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {**ports, "parallel_workers": 0, "host": "127.0.0.1", "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    tensors = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        [{"name": spec.name, "datatype": "FP32", "shape": list(spec.shape)} for spec in specs]
        for specs in (tensors.get_inputs(), tensors.get_outputs())
    )
    named = {"name": "m", "implementation": "mlserver_peer.Model", "parameters": {"uri": str(model)}}
    named |= {"inputs": inputs, "outputs": outputs}
    (folder / "model-settings.json").write_text(json.dumps(named))


def free_port():
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def running(chosen, port):
    """Run a server in a session of its own; yield its process id and the seconds to its first answer."""
    environment = {**os.environ, **chosen.environment}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            chosen.command, env=environment, cwd=chosen.folder, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        began_s = time.perf_counter()
        try:
            while True:
                with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
                    if asyncio.run(Sockets(port, chosen.request).once()) == 200:
                        break
                if process.poll() is not None or time.perf_counter() - began_s > 60:
                    log.seek(0)
                    last = log.read()[-300:].decode(errors="replace").strip().replace("\n", " | ")
                    raise RuntimeError(f"it does not start: {last}")
                time.sleep(0.02)
            yield process.pid, time.perf_counter() - began_s
        finally:
            for pid in tree(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                for pid in tree(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)


def tree(pid):
    """Return the ids of a process and all below it, children first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in tree(int(child))] + [pid]


class Sockets:
    """Connections that each send one request again and again."""

    def __init__(self, port, request, added_s=0.0):
        self.port, self.request, self.added_s = port, request, added_s

    async def once(self):
        """Return the status of one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await self.ask(reader, writer)
        finally:
            writer.close()

    async def ask(self, reader, writer):
        """Return the status of one request."""
        if self.added_s:
            await asyncio.sleep(self.added_s)
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"\r\ncontent-length: " in head:
            await reader.readexactly(int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]))
        else:  # chunks
            while (size := int(await reader.readuntil(b"\r\n"), 16)) or await reader.readexactly(2) is None:
                await reader.readexactly(size + 2)
        return int(head[9:12])

    async def round(self, clients, seconds):
        """Return answers per second, and the median seconds of one."""
        times, until_s = [], time.perf_counter() + seconds

        async def one():
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while (began_s := time.perf_counter()) < until_s:
                if await self.ask(reader, writer) != 200:
                    raise RuntimeError("a request is refused")
                times.append(time.perf_counter() - began_s)
            writer.close()

        began_s = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return len(times) / (time.perf_counter() - began_s), statistics.median(times)
