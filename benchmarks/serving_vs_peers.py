"""A request to edgekit beside one to other Python servers: latency, throughput, CPU, memory, cold start.

Every server runs the same ONNX file with ONNX Runtime on one thread, in an environment of its own below the
cache folder, and is asked in turn over the same sockets, each in its fastest way: binary where it has one,
else JSON. ``bare_asgi`` is uvicorn and forty lines, the least a Python server costs. Two models: the tiny
one (64 bytes in), and a small CNN that takes a picture of 96 x 96 (110,592 bytes).

The bars: p50 over the bare call at most 0.15 ms with the tiny model and 0.3 ms with the CNN; on the tiny
model 4 times the throughput of the best peer with 1, 8 and 32 clients; on the CNN 0.8 of the bare
application's, and a quarter of the best peer's CPU beyond the inference. All of them by ``edgekit serve``,
and at the address of an agent whose pipeline makes 20 windows a second; the agent's CPU is that of all its
processes. A peer that cannot be installed or does not start is named. By default the peers that install in a
minute; ``--full`` adds the others.

``floor`` has the figures of the bare application: where it misses a bar, no server on uvicorn can meet it.
``python_peers`` has edgekit's against the peers whose HTTP server is Python, which mosec's (Rust) is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _report import finish, parser
from _servers import PEERS, Sockets, free_port, running, subject, tree
from batching import bundle

from edgekit.model.servable import HeldServable

BARS = {"tiny_ms": 0.15, "cnn_ms": 0.3, "throughput": 4.0, "asgi": 0.8, "cpu": 0.25}
CLIENTS = (1, 8, 32)
OURS = ("edgekit", "agent")
QUICK = ("mosec", "litserve")
RUST = frozenset({"mosec"})
"""Peers whose HTTP server is no Python."""


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
    """Return each bar's figure, and whether it holds, for ``edgekit serve`` and for the agent."""
    rows, holds = {}, {}
    for name in OURS:
        if any("reason" in table[name] for table in tables.values()):
            continue
        found = figures(name, tables, bare)
        rows[name] = found
        for bar, value in found.items():
            is_most = bar in ("tiny_ms", "cnn_ms", "cpu")
            holds[f"{name}: {bar}"] = value <= BARS[bar] if is_most else value >= BARS[bar]
    return rows, holds


def figures(name, tables, bare, without=frozenset()):
    """Return the figure of each bar that can be judged; ``without``: peers that do not count."""
    tiny, small = tables["tiny"], tables["cnn"]
    found = {
        "tiny_ms": round(tiny[name]["p50_ms"] - bare["tiny"], 4),
        "cnn_ms": round(small[name]["p50_ms"] - bare["cnn"], 4),
        "asgi": round(min(small[name][f"per_s_{n}"] / small["bare_asgi"][f"per_s_{n}"] for n in CLIENTS), 2),
    }
    counted = PEERS.keys() - without
    on_tiny, on_cnn = (
        [row for peer, row in table.items() if peer in counted and "reason" not in row]
        for table in (tiny, small)
    )
    if on_tiny:
        ratios = {n: tiny[name][f"per_s_{n}"] / max(row[f"per_s_{n}"] for row in on_tiny) for n in CLIENTS}
        found["throughput"] = round(min(ratios.values()), 2)
    if on_cnn:
        model_us = bare["cnn"] * 1e3
        best = min(row["cpu_us_1"] for row in on_cnn) - model_us
        found["cpu"] = round((small[name]["cpu_us_1"] - model_us) / best, 3)
    return found


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
                name: measure(name, model, array, seconds, added_s if name in OURS else 0.0)
                for name in (*OURS, "bare_asgi", *peers)
            }
    for table in tables.values():
        if "reason" in table["edgekit"]:
            raise SystemExit(table["edgekit"]["reason"])
    rows, holds = verdict(tables, bare)
    failed = [name for name, is_held in holds.items() if not is_held]
    others = {"floor": figures("bare_asgi", tables, bare)}
    others["python_peers"] = {name: figures(name, tables, bare, RUST) for name in rows}
    detail = {
        "figures": rows,
        **others,
        "bars": BARS,
        "not_held": failed,
        "bare_call_ms": bare,
        "servers": tables,
    }
    claim = "a request costs little beyond the model, and less than to other Python servers"
    return finish(
        claim, len(holds) - len(failed), "bars held", len(holds), not failed, detail, arguments.json
    )


if __name__ == "__main__":
    sys.exit(main())
