"""What the lane does with more than it can do: batches where they pay, answers in time, no work for nobody.

Models, each served by ``edgekit serve`` twice, with and without ``batch`` in its manifest: a small CNN, whose
batches save next to nothing on a CPU, and an unrolled recurrent network, whose time is that of beginning its
4,800 operators, so that eight rows cost little more than one. Clients are sockets in this process.

The bars: at 1.5 and 3 times the measured capacity at least 95 % of it is answered within the deadline; of 40
requests whose clients hang up before they are begun none is executed; a lone request costs at most 0.05 ms
more with batches; 32 clients get at least 1.5 times as much where batches pay, and nowhere less than 0.95.

Capacity and overload are measured in turn, and each share is of the capacity just before it.

``dense`` has no bar: eight layers whose 32 MB of weights are read for each run. That takes longer where
anything else uses the cache, client and event loop too, and up to a fifth more or less with the pages that a
process got. So its shares under overload say as much of the memory as of the lane.

A lone request's cost is what it takes beyond the run, by the server's statistics, with batches and without.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from pathlib import Path

import numpy as np
import uvloop
from _report import finish, parser
from serve_overhead import server

GOODPUT, GAIN, LOSS, LONE_MS = 0.95, 1.5, 0.95, 0.05
FACTORS = (1.5, 3.0)
WIDTH, LAYERS, SIDE = 1024, 8, 64
STEPS, STATE = 2400, 64
HELD = ("recurrent", "convolutions")
"""The models that the bars are for."""
CONNECTIONS = 240
"""Enough for all that a server accepts in a deadline; of 256 that have sent nothing yet it refuses more."""
TICK_S = 0.001
"""How often requests are sent that have become due. One that woke for each took a quarter of a core at three
times the load, a twentieth while capacity is measured, and put the model off its core at each."""
STAY = 120
"""Requests before those whose clients hang up: enough that none of these begins before."""
ROUNDS = 7
"""Each measures capacity and overload once."""
LONE = 10
"""Requests of one model, one at a time, before as many of the other."""


def dense():
    """Return a model of dense layers: 32 MB of weights, read for each run."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for layer in range(LAYERS):
        values = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes += [
            helper.make_node("MatMul", [name, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], ["y" if layer == LAYERS - 1 else f"t{layer}"]),
        ]
        name = f"t{layer}"
    shape = ["n", WIDTH]
    return _model(nodes, weights, shape, shape)


def recurrent():
    """Return a recurrent network, unrolled: each step is two operators, on weights of 16 KB."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array((rng.standard_normal((STATE, STATE)) / 8).astype(np.float32), "w")]
    nodes, name = [], "x"
    for step in range(STEPS):
        after = "y" if step == STEPS - 1 else f"t{step}"
        nodes += [
            helper.make_node("MatMul", [name, "w"], [f"m{step}"]),
            helper.make_node("Tanh", [f"m{step}"], [after]),
        ]
        name = after
    return _model(nodes, weights, ["n", STATE], ["n", STATE])


def convolutions():
    """Return a small CNN: three convolutions on a picture of 64 x 64."""
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, depth = [], [], "x", 3
    for layer in range(3):
        values = (rng.standard_normal((32, depth, 3, 3)) / 10).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes += [
            helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        name, depth = f"r{layer}", 32
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    return _model(nodes, weights, ["n", 3, SIDE, SIDE], ["n", 32, 1, 1])


def _model(nodes, weights, x, y):
    from onnx import TensorProto, helper

    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", (x, y), strict=True)
    ]
    graph = helper.make_graph(nodes, "model", tensors[:1], tensors[1:], weights)
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def bundle(folder, name, data, shapes, batch):
    """Write a bundle of one file; return its folder."""
    path = folder / name
    (path / "variants").mkdir(parents=True)
    (path / "variants" / "model.onnx").write_bytes(data)
    file = {"path": "variants/model.onnx", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    variant = {"id": "onnxruntime-fp32", "backend": "onnxruntime", "accelerator": "cpu", "files": [file]}
    if batch:
        variant["batch"] = batch
    rows = [
        [{"name": tensor, "datatype": "FP32", "shape": shape}]
        for tensor, shape in zip("xy", shapes, strict=True)
    ]
    manifest = {
        "format": 1, "model": name, "version": "1.0.0", "task": "raw", "license": "Apache-2.0",
        "created": "2026-01-01T00:00:00Z", "inputs": rows[0], "outputs": rows[1], "post": {"decoder": "raw"},
        "variants": [variant],
    }  # fmt: skip
    (path / "bundle.json").write_text(json.dumps(manifest))
    return path


class Connection(asyncio.Protocol):
    """One connection, which has one request in work at a time."""

    def __init__(self):
        self.transport = self.on_answer = None
        self.received = b""

    def connection_made(self, transport):
        """Keep the transport."""
        self.transport = transport

    def ask(self, request, on_answer):
        """Send a request; its status and the connection are given to ``on_answer``."""
        self.on_answer = on_answer
        self.transport.write(request)

    def data_received(self, data):
        """Take a piece of an answer."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower() + b"\r\n"
        length = int(fields.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self.received, on_answer = body[length:], self.on_answer
        on_answer(int(head[9:12]), self)


class Client:
    """Asks one model over connections that are kept; little of its own, since it shares the machine."""

    def __init__(self, port, model, shape):
        values = np.random.default_rng(0).random(shape, np.float32)
        self.port, self.model, self.idle = port, model, deque()
        self.statuses = Counter()
        self.tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape)}
        self.tensor["parameters"] = {"binary_data_size": values.nbytes}
        self.values = values.tobytes()

    def request(self, timeout_s=0.0):
        """Return a request's bytes."""
        parameters = {"binary_data_output": True}
        if timeout_s:
            parameters["timeout"] = int(timeout_s * 1e6)
        header = json.dumps({"inputs": [self.tensor], "parameters": parameters}).encode()
        head = f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Length: {len(header) + len(self.values)}\r\n"
        return f"{head}Inference-Header-Content-Length: {len(header)}\r\n\r\n".encode() + header + self.values

    async def connect(self, count):
        """Have so many connections that are idle; the server ends those that were for a minute."""
        loop = asyncio.get_running_loop()
        self.idle = deque(each for each in self.idle if not each.transport.is_closing())
        while len(self.idle) < count:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
            self.idle.append(connection)

    async def ask(self, request):
        """Send a request; return its status."""
        await self.connect(1)
        future = asyncio.get_running_loop().create_future()
        self.idle.popleft().ask(request, lambda *answer: future.set_result(answer))
        status, connection = await future
        self.idle.append(connection)
        return status

    async def closed(self, clients, seconds):
        """Return answers per second of so many clients, each of which asks again at once."""
        await self.connect(clients)
        request, ended, count = self.request(), asyncio.Event(), 0
        began_s = time.perf_counter()
        users = [self.idle.popleft() for _ in range(clients)]

        def answered(status, connection):
            nonlocal count
            if status != 200:
                raise SystemExit(f"{self.model} refuses a request without a deadline")
            count += 1
            if time.perf_counter() < began_s + seconds:
                connection.ask(request, answered)
            else:
                self.idle.append(connection)
                users.remove(connection)
                if not users:
                    ended.set()

        for connection in list(users):
            connection.ask(request, answered)
        await ended.wait()
        return count / (time.perf_counter() - began_s)

    async def open(self, per_s, seconds, deadline_s):
        """Return answers per second within the deadline, of requests that come at random.

        Each counts from when it is sent, as the server's deadline does. What is due while all
        connections have a request in work counts as not answered.
        """
        request, rng, good = self.request(deadline_s), random.Random(0), 0
        await self.connect(CONNECTIONS)
        is_over, ended = False, asyncio.Event()

        def answered(began_s, status, connection):
            nonlocal good
            self.statuses[status] += 1
            good += status == 200 and time.perf_counter() - began_s <= deadline_s
            self.idle.append(connection)
            if is_over and len(self.idle) == CONNECTIONS:
                ended.set()

        began_s = due_s = now_s = time.perf_counter()
        while now_s < began_s + seconds:
            while due_s <= now_s:
                due_s += rng.expovariate(per_s)
                if self.idle:
                    self.idle.popleft().ask(request, functools.partial(answered, time.perf_counter()))
            await asyncio.sleep(TICK_S)
            now_s = time.perf_counter()
        is_over = True
        if len(self.idle) < CONNECTIONS:
            await ended.wait()
        return good / (time.perf_counter() - began_s)

    async def lone_s(self, requests):
        """Return the median seconds of one request at a time, and the mean beyond the model's run."""
        request, times, before_s = self.request(), [], self.inferred_s()
        for _ in range(requests):
            began_s = time.perf_counter()
            await self.ask(request)
            times.append(time.perf_counter() - began_s)
        beyond_s = (sum(times) - (self.inferred_s() - before_s)) / requests
        return statistics.median(times), beyond_s

    def inferred_s(self):
        """Return the seconds that the model has run for requests."""
        return self._stats()["inference_stats"]["compute_infer"]["ns"] / 1e9

    async def abandoned(self):
        """Return how many of 40 requests are executed whose clients hang up before they are begun."""
        request, before = self.request(), self.executed()
        await self.connect(STAY + 40)
        leave = [self.idle.popleft() for _ in range(40)]
        stay = [asyncio.create_task(self.ask(request)) for _ in range(STAY)]
        await asyncio.sleep(0)
        for connection in leave:
            connection.ask(request, None)
        await asyncio.sleep(0)
        for connection in leave:
            connection.transport.abort()
        await asyncio.gather(*stay)
        await self.ask(request)
        return self.executed() - before - len(stay) - 1

    def executed(self):
        """Return how many inferences the model has done."""
        return self._stats()["inference_count"]

    def _stats(self):
        return self.document(f"/v2/models/{self.model}/stats")["model_stats"][0]

    def document(self, path):
        """Return a document of the server's."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answered:
            return json.load(answered)

    async def measured(self):
        """Wait until the server knows whether batches pay; return what it says."""
        while True:
            row = next(row for row in self.document("/status")["models"] if row["name"] == self.model)
            if "being measured" not in row["batch"]["why"]:
                return row["batch"]
            await asyncio.sleep(0.1)


async def compare(port, name, shape, seconds, is_sabotaged):
    """Measure one model with and without batches, in turn."""
    batched, alone = Client(port, name, shape), Client(port, f"{name}-alone", shape)
    batch = await batched.measured()
    pairs = [(await batched.lone_s(LONE), await alone.lone_s(LONE)) for _ in range(int(20 * seconds))]
    lone_s = statistics.median(each for _, (each, _) in pairs)
    deadline_s = max(0.05, 12 * lone_s)
    sent_s = 0.002 if is_sabotaged else deadline_s
    rates, shares = [], {factor: [] for factor in FACTORS}
    for _ in range(ROUNDS):
        rates.append([await each.closed(32, seconds / ROUNDS) for each in (batched, alone)])
        for factor, found in shares.items():
            capacity = await batched.closed(32, seconds / ROUNDS)
            found.append(await batched.open(factor * capacity, seconds / ROUNDS, sent_s) / capacity)
    return {
        "batch": batch,
        "lone_ms": round(lone_s * 1e3, 3),
        "lone_costs_ms": round(statistics.median(a - b for (_, a), (_, b) in pairs) * 1e3, 4),
        "capacity_per_s": round(statistics.median(each for each, _ in rates), 1),
        "gain": round(statistics.median(a / b for a, b in rates), 3),
        "deadline_ms": round(deadline_s * 1e3, 1),
        "goodput_share": {str(factor): round(statistics.median(each), 3) for factor, each in shares.items()},
        "answers_under_overload": {str(status): count for status, count in sorted(batched.statuses.items())},
        "abandoned_and_executed": await batched.abandoned(),
    }


def worst_of(rows):
    """Return the worst ratio of a figure to its bar: 1 and more holds."""
    held = [rows[name] for name in HELD]
    worst = min(share / GOODPUT for row in held for share in row["goodput_share"].values())
    for row in held:
        pays = row["batch"]["most"] > 1
        worst = min(worst, row["gain"] / (GAIN if pays else LOSS))
        worst = min(worst, 1.0 if row["lone_costs_ms"] <= LONE_MS else LONE_MS / row["lone_costs_ms"])
        worst = min(worst, 0.0 if row["abandoned_and_executed"] else 1.0)
    return round(worst if rows["recurrent"]["batch"]["most"] > 1 else 0.0, 3)


def main():
    """Measure, and hold it against the bars."""
    arguments = parser(
        __doc__,
        full="twenty seconds a measurement, not six",
        sabotage="requests ask for an answer in two milliseconds",
    ).parse_args()
    seconds = 2.0 if arguments.sabotage else 20.0 if arguments.full else 6.0
    models = {
        "recurrent": (recurrent(), ([1, STATE], [1, STATE])),
        "dense": (dense(), ([1, WIDTH], [1, WIDTH])),
        "convolutions": (convolutions(), ([1, 3, SIDE, SIDE], [1, 32, 1, 1])),
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            bundle(Path(folder), name + suffix, data, shapes, batch)
            for name, (data, shapes) in models.items()
            for suffix, batch in (("", "free"), ("-alone", None))
        ]
        with server([*paths, "--threads", "1"], Path(folder) / "log") as port:
            rows = {
                name: uvloop.run(compare(port, name, shapes[0], seconds, arguments.sabotage))
                for name, (_, shapes) in models.items()
            }
    value = worst_of(rows)
    claim = "overload is answered in time as far as the model can, in batches where they pay"
    return finish(claim, value, "of the bar, the worst", 1.0, value >= 1.0, rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
