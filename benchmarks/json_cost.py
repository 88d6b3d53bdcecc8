"""What JSON costs the server beside binary data: CPU a request for 27,648 floats of nine digits.

``edgekit serve`` answers rounds of the same request in both forms in turn, on one connection each; its model
averages the numbers, so the server is what is measured. Written with 17 digits, as Python and JavaScript do
of their own accord, a request is nearly twice as long: it is measured too, without a bar.

``parser_alone_us`` is what the fastest parser found for Python takes for the list of nine digits and nothing
else, in this process; ``parser_alone_ratio`` is that over a whole binary request. ``least_ratio`` is the
floor: a binary request and the parser, with not a microsecond for the rest of the JSON. Where it is above the
bar, no server that parses with this library can meet it (docs/decisions/0019-what-json-costs.md).
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _report import finish, parser
from serve_overhead import SIDE, Client, cpu_s, host_of, image_model, round_of, server

BAR = 3.0
SHAPE = (1, 3, SIDE, SIDE)


class JsonClient(Client):
    """A client whose tensor is written as JSON, each number by a format."""

    def __init__(self, port, model, spec, array, written):
        numbers = ",".join(written % value for value in array.ravel())
        tensor = {"name": spec, "datatype": "FP32", "shape": list(array.shape), "data": 0}
        body = json.dumps({"inputs": [tensor]}).replace('"data": 0', f'"data": [{numbers}]').encode()
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
        self.added_s, self.request = 0.0, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Spec:
    """The input, as the binary client needs it."""

    name, datatype = "image", "FP32"


def compare(port, pid, seconds, nine_digits):
    """Take turns between the clients for some seconds; return what was measured of each."""
    array = np.random.default_rng(0).random(SHAPE, np.float32)
    clients = {
        "binary": Client(port, "image", Spec, array, 0.0),
        "json": JsonClient(port, "image", Spec.name, array, nine_digits),
        "json_17_digits": JsonClient(port, "image", Spec.name, array.astype(np.float64), "%.17g"),
    }
    cpu, times = dict.fromkeys(clients, 0.0), {name: [] for name in clients}
    for client in clients.values():
        round_of(client)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or len(times["binary"]) < 3:
        for name, client in clients.items():
            before = cpu_s(pid)
            times[name].append(round_of(client))
            cpu[name] += cpu_s(pid) - before
    rounds = len(times["binary"])
    return {
        name: {
            "body_bytes": len(client.request),
            "requests": rounds * 200,
            "server_cpu_us": round(cpu[name] / (rounds * 200) * 1e6, 1),
            "p50_ms": round(statistics.median(times[name]) * 1e3, 4),
        }
        for name, client in clients.items()
    }


def parser_alone_us():
    """Return the median microseconds of simdjson from the text of a list to an array of float64."""
    import simdjson

    values = np.random.default_rng(0).random(SHAPE, np.float32).ravel()
    numbers = ",".join(f"{value:.9g}" for value in values)
    text, parser_of_lists, times = f"[{numbers}]".encode(), simdjson.Parser(), []
    for _ in range(200):
        began_s = time.perf_counter()
        np.frombuffer(parser_of_lists.parse(text).as_buffer(of_type="d"))
        times.append(time.perf_counter() - began_s)
    return round(statistics.median(times) * 1e6, 1)


def floor(alone_us, binary_us):
    """Return what the parser alone makes of the ratio."""
    return {
        "parser_alone_us": alone_us,
        "parser_alone_ratio": round(alone_us / binary_us, 2),
        "least_ratio": round((binary_us + alone_us) / binary_us, 2),
    }


def main():
    """Measure, and hold it against the bar."""
    arguments = parser(
        __doc__, full="a minute, not ten seconds", sabotage="the numbers are written with fifty digits"
    ).parse_args()
    seconds = 1.0 if arguments.sabotage else 60.0 if arguments.full else 10.0
    with tempfile.TemporaryDirectory() as folder:
        image = image_model(Path(folder) / "image.onnx")
        with server([image, "--threads", "1"], Path(folder) / "log") as port:
            written = "%.50f" if arguments.sabotage else "%.9g"
            detail = compare(port, host_of(port, "image"), seconds, written)
    detail |= floor(parser_alone_us(), detail["binary"]["server_cpu_us"])
    ratio = round(detail["json"]["server_cpu_us"] / detail["binary"]["server_cpu_us"], 2)
    claim = "JSON of nine digits costs the server at most three times what binary data costs"
    return finish(claim, ratio, "times the CPU", BAR, ratio <= BAR, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
