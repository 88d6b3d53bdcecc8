"""A request to edgekit beside one to other Python servers: latency, throughput, CPU, memory, cold start.

Every server runs the same ONNX file with ONNX Runtime on one thread, in an environment of its own below the
cache folder, and is asked in turn over the same sockets, each in its fastest way: binary where it has one,
else JSON. ``bare_asgi`` is uvicorn and forty lines, the least a Python server costs. Two models: the tiny
one (64 bytes in), and a small CNN that takes a picture of 96 x 96 (110,592 bytes).

The bars: p50 over the bare call at most 0.15 ms with the tiny model and 0.3 ms with the CNN; on the tiny
model 4 times the throughput of the best peer with 1, 8 and 32 clients; on the CNN 0.8 of the bare
application's, and a quarter of the best peer's CPU beyond the inference. A peer that cannot be installed or
does not start is named. By default the peers that install in a minute; ``--full`` adds the others.
"""

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
from _report import finish, parser
from batching import bundle

from edgekit.base.paths import cache_dir
from edgekit.model.servable import HeldServable

HERE = Path(__file__).parent / "peers"
BARS = {"tiny_ms": 0.15, "cnn_ms": 0.3, "throughput": 4.0, "asgi": 0.8, "cpu": 0.25}
CLIENTS = (1, 8, 32)
PEERS = {
    "mosec": ("mosec==0.9.8",),
    "litserve": ("litserve==0.2.19",),
    "mlserver": ("mlserver==1.7.1", "uvloop<0.22"),
    "bentoml": ("bentoml==1.4.40",),
    "kserve": ("kserve==0.21.0",),
    "ray": ("ray[serve]==2.60.0",),
    "pytriton": ("nvidia-pytriton==0.7.0",),
}
QUICK = ("mosec", "litserve")


def tiny():
    """Return a layer of 16 inputs and 4 outputs."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).random((16, 4), np.float32), "w")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def cnn():
    """Return a small CNN for a picture of 96 x 96."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, depth = [], [], "x", 3
    for layer, (out, stride) in enumerate(((16, 2), (32, 2), (64, 2))):
        values = (rng.standard_normal((out, depth, 3, 3)) / 10).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        extra = {"pads": [1, 1, 1, 1], "strides": [stride, stride]}
        nodes += [
            helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], **extra),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        name, depth = f"r{layer}", out
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 96, 96])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 1, 1])]
    graph = helper.make_graph(nodes, "cnn", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


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


def write_mlserver_settings(folder, port, model):
    """Write what MLServer is started with: one process, on free ports."""
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {**ports, "parallel_workers": 0, "host": "127.0.0.1", "debug": False}
    (folder / "settings.json").write_text(json.dumps(settings))
    named = {"name": "m", "implementation": "mlserver_peer.Model", "parameters": {"uri": str(model)}}
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


def cpu_s(pid):
    """Return the CPU seconds of a process and all below it."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def pss_mb(pid):
    """Return the proportional memory of a process and all below it, in MB."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(text.split("Pss:")[1].split()[0])
    return round(total / 1024, 1)


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


def measure(name, model, array, seconds, added_s=0.0):
    """Return one server's figures on one model; ``reason`` where it does not run."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = subject(name, model, array, port, folder)
            with running(chosen, port) as (pid, cold_s):
                sockets, row = Sockets(port, chosen.request, added_s), {"cold_s": round(cold_s, 2)}
                asyncio.run(sockets.round(1, seconds / 4))  # warm
                for clients in CLIENTS:
                    before = cpu_s(pid)
                    rate, median_s = asyncio.run(sockets.round(clients, seconds))
                    row[f"per_s_{clients}"] = round(rate, 1)
                    row[f"cpu_us_{clients}"] = round((cpu_s(pid) - before) / (rate * seconds) * 1e6, 1)
                    if clients == 1:
                        row["p50_ms"] = round(median_s * 1e3, 4)
                return {**row, "pss_mb": pss_mb(pid)}
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            return {"reason": str(error)[:300]}


def bare_call(model, array):
    """Return the median milliseconds of the model's call in this process."""
    held = HeldServable(str(model.with_suffix("")), 1)
    name, times = held.servable.inputs[0].name, []
    for _ in range(500):
        began_s = time.perf_counter()
        held.servable.infer({name: array})
        times.append(time.perf_counter() - began_s)
    held.close()
    return round(statistics.median(times) * 1e3, 4)


def verdict(tables, bare):
    """Return each bar's figure, and whether it holds."""
    tiny, small = tables["tiny"], tables["cnn"]
    rows = {"tiny_ms": round(tiny["edgekit"]["p50_ms"] - bare["tiny"], 4)}
    rows["cnn_ms"] = round(small["edgekit"]["p50_ms"] - bare["cnn"], 4)
    holds = {"tiny_ms": rows["tiny_ms"] <= BARS["tiny_ms"], "cnn_ms": rows["cnn_ms"] <= BARS["cnn_ms"]}
    peers = {name: row for name, row in tiny.items() if name in PEERS and "reason" not in row}
    if peers:
        ratios = [
            tiny["edgekit"][f"per_s_{n}"] / max(row[f"per_s_{n}"] for row in peers.values()) for n in CLIENTS
        ]
        rows["throughput"] = round(min(ratios), 2)
        holds["throughput"] = min(ratios) >= BARS["throughput"]
    ratios = [small["edgekit"][f"per_s_{n}"] / small["bare_asgi"][f"per_s_{n}"] for n in CLIENTS]
    rows["asgi"], holds["asgi"] = round(min(ratios), 2), min(ratios) >= BARS["asgi"]
    on_cnn = [row for name, row in small.items() if name in PEERS and "reason" not in row]
    if on_cnn:
        model_us = bare["cnn"] * 1e3
        best = min(row["cpu_us_1"] for row in on_cnn) - model_us
        rows["cpu"] = round((small["edgekit"]["cpu_us_1"] - model_us) / best, 3) if best > 0 else None
        holds["cpu"] = rows["cpu"] is not None and rows["cpu"] <= BARS["cpu"]
    return rows, holds


def main():
    """Measure, and hold it against the bars."""
    arguments = parser(
        __doc__,
        full="every peer, and four seconds a measurement, not two",
        sabotage="each of edgekit's requests waits a millisecond",
    ).parse_args()
    seconds = 4.0 if arguments.full else 0.5 if arguments.sabotage else 2.0
    peers = () if arguments.sabotage else tuple(PEERS) if arguments.full else QUICK
    rng, added_s = np.random.default_rng(0), 0.001 if arguments.sabotage else 0.0
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for label, data, shape, made in (
            ("tiny", tiny(), [1, 16], [1, 4]),
            ("cnn", cnn(), [1, 3, 96, 96], [1, 64, 1, 1]),
        ):
            models[label] = Path(folder) / f"{label}.onnx", shape
            models[label][0].write_bytes(data)
            bundle(Path(folder), label, data, (shape, made), None)  # of one variant, for ONNX Runtime
        tables, bare = {}, {}
        for label, (model, shape) in models.items():
            array = rng.random(shape, np.float32)
            bare[label] = bare_call(model, array)
            tables[label] = {
                name: measure(name, model, array, seconds, added_s if name == "edgekit" else 0.0)
                for name in ("edgekit", "bare_asgi", *peers)
            }
    for table in tables.values():
        if "reason" in table["edgekit"]:
            raise SystemExit(table["edgekit"]["reason"])
    figures, holds = verdict(tables, bare)
    failed = [name for name, is_held in holds.items() if not is_held]
    detail = {"figures": figures, "bars": BARS, "not_held": failed, "bare_call_ms": bare, "servers": tables}
    claim = "a request costs little beyond the model, and less than to other Python servers"
    return finish(
        claim, len(holds) - len(failed), "bars held", len(holds), not failed, detail, arguments.json
    )


if __name__ == "__main__":
    sys.exit(main())
