"""What HTTP costs over a call in process: p50 and server CPU of a binary tensor request.

Rounds of requests to ``edgekit serve`` (one connection, loopback) and rounds of the same model's
``infer`` in this process take turns, so that both meet the same machine. Two requests: 64 bytes in and
16 out (the tiny model), and 110,592 bytes in and 12 out (a float image of 96 x 96, averaged, so that what
is measured is the server). The client is a socket with the request
written beforehand: a Python HTTP client adds 0.1 to 0.4 ms of its own.

The bar: 0.5 ms on a machine of two shared cores, client and server competing for them. Measured before
on such a machine: 0.29 ms in all for uvicorn and a raw ASGI application, 1.5 ms and more of CPU a
request for LitServe, MLServer, KServe and BentoML.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from _report import finish, parser

import edgekit.backends.tiny
from edgekit.model.servable import HeldServable

BAR_MS = 0.5
BATCH = 200
TINY = Path(edgekit.backends.tiny.__file__).parent / "relu.onnx"
SIDE = 96


def image_model(path: Path) -> Path:
    """Write a model that takes a float image and averages it: next to no work, all of the transport."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["image"], ["means"])],
        "image",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.write_bytes(model.SerializeToString())
    return path


@contextmanager
def server(bundles, path):
    """Run ``edgekit serve`` on a free port; give the port."""
    words = [sys.executable, "-m", "edgekit.cli.main", "serve", *map(str, bundles), "--port", "0"]
    with path.open("w+") as log, subprocess.Popen(words, stderr=log) as process:
        try:
            while "serving at " not in (told := path.read_text()):
                if process.poll() is not None:
                    raise SystemExit(told)
                time.sleep(0.05)
            yield int(told.split("serving at ")[1].split()[0].rsplit(":", 1)[1])
        finally:
            process.terminate()


class Client:
    """One connection that sends one request again and again."""

    def __init__(self, port, model, spec, array, added_s):
        self.added_s = added_s
        tensor = {"name": spec.name, "datatype": spec.datatype, "shape": list(array.shape)}
        tensor["parameters"] = {"binary_data_size": array.nbytes}
        document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        header = json.dumps(document).encode()
        body = header + array.tobytes()
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self.request = f"{head}Inference-Header-Content-Length: {len(header)}\r\n\r\n".encode() + body
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self):
        """Send the request and read the whole answer."""
        if self.added_s:
            time.sleep(self.added_s)
        self.socket.sendall(self.request)
        data = self.socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(data.decode(errors="replace"))
        length = int(head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self.socket.recv(65536)


def round_of(call):
    """Return the median seconds of a batch of calls."""
    times = []
    for _ in range(BATCH):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def host_of(port, model):
    """Return the id of the process that hosts a model."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status") as answered:
        rows = json.load(answered)["models"]
    return next(row["pid"] for row in rows if row["name"] == model)


def cpu_s(pid):
    """Return the CPU seconds, user and system, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(port, path, seconds, added_s):
    """Take turns between the server and this process for some seconds; return what was measured."""
    servable, pid = HeldServable(str(path), 1).servable, host_of(port, path.stem)
    spec = servable.inputs[0]
    array = np.random.default_rng(0).random(spec.shape, np.float32)
    over_http = Client(port, path.stem, spec, array, added_s)
    round_of(over_http)
    pairs, cpu, here = [], 0.0, 0.0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or len(pairs) < 5:
        before = cpu_s(pid)
        http = round_of(over_http)
        cpu += cpu_s(pid) - before
        before = time.process_time()
        local = round_of(lambda: servable.infer({spec.name: array}))
        here += time.process_time() - before
        pairs.append((http, local))
    servable.close()
    http, local = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    requests = len(pairs) * BATCH
    return {
        "bytes": array.nbytes,
        "requests": requests,
        "http_p50_ms": round(http, 4),
        "in_process_p50_ms": round(local, 4),
        "ratio": round(http / local, 1),
        "overhead_p50_ms": round(statistics.median(a - b for a, b in pairs) * 1e3, 4),
        "server_cpu_us": round(cpu / requests * 1e6, 1),
        "in_process_cpu_us": round(here / requests * 1e6, 1),
    }


def main():
    """Measure, and hold it against the bar."""
    arguments = parser(
        __doc__,
        full="a minute for each request, not ten seconds",
        sabotage="each request takes five milliseconds more",
    ).parse_args()
    seconds = 1.0 if arguments.sabotage else 60.0 if arguments.full else 10.0
    added_s = 0.005 if arguments.sabotage else 0.0
    with tempfile.TemporaryDirectory() as folder:
        image = image_model(Path(folder) / "image.onnx")
        with server([TINY, image, "--threads", "1"], Path(folder) / "log") as port:
            detail = {path.stem: compare(port, path, seconds, added_s) for path in (TINY, image)}
    worst = max(row["overhead_p50_ms"] for row in detail.values())
    claim = "a binary tensor over HTTP costs little more than the call in process"
    return finish(claim, worst, "ms more at p50", BAR_MS, worst <= BAR_MS, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
