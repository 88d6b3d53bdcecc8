"""What two replicas of a model answer against one, and what a lone request pays for being dispatched.

Two servers of ``edgekit serve`` run side by side, one of a model and one of two replicas of it, and rounds of
requests to them (closed loop, binary tensors, loopback) take turns, so that both meet the same machine:

- an accelerator of its own: the model waits 5 ms without using the processor, as one that waits for a device
  does. Bar: two answer at least 1.8 times as many requests as one.
- the processor: a small CNN by ONNX Runtime, one thread each. On two cores that clients and server use too,
  there is no second core for the second replica, so this has no bar.

What a lone client pays is measured as ``serve_overhead.py`` does, on its tiny model with two replicas: p50
over the same call in this process. Its bar holds here too: 0.5 ms. With replicas every request goes to the
thread of one; without, a quick model runs on the event loop.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from _report import finish, parser
from serve_overhead import BAR_MS, TINY, Client, compare, server

from edgekit.core.spec import TensorSpec

BAR_RATIO = 1.8
CLIENTS = 4
ROUND_S = 1.0
WAIT_MS = 5.0
SIDE, CHANNELS, LAYERS = 32, 128, 5


def waiting_bundle(folder: Path) -> Path:
    """Write a model that waits, in two variants."""
    options = {
        "latency_ms": WAIT_MS,
        "inputs": {"x": {"datatype": "FP32", "shape": [1, 16]}},
        "outputs": {"y": {"datatype": "FP32", "shape": [1, 4]}},
    }
    variants = [{"id": name, "backend": "null", "options": options} for name in ("one", "two")]
    document = {
        "format": 1,
        "model": "waiting",
        "version": "1.0.0",
        "task": "raw",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4]}],
        "variants": variants,
    }
    folder.mkdir()
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def cnn(path: Path) -> Path:
    """Write a CNN that takes some milliseconds on one thread."""
    from onnx import TensorProto, helper, numpy_helper

    random, nodes, weights, name, channels = np.random.default_rng(0), [], [], "x", 3
    for layer in range(LAYERS):
        kernel = random.standard_normal((CHANNELS, channels, 3, 3)).astype(np.float32) * 0.05
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name, channels = f"r{layer}", CHANNELS
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    ends = (("x", [1, 3, SIDE, SIDE]), ("y", [1, CHANNELS, 1, 1]))
    values = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end, shape in ends]
    graph = helper.make_graph(nodes, "cnn", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.write_bytes(model.SerializeToString())
    return path


def rate(port, model, array):
    """Return how many requests a second some clients are answered, for a round."""
    spec = TensorSpec(name="x", datatype="FP32", shape=array.shape)
    counts, until_s = [0] * CLIENTS, time.monotonic() + ROUND_S

    def ask(number):
        client = Client(port, model, spec, array, 0.0)
        while time.monotonic() < until_s:
            client()
            counts[number] += 1
        client.socket.close()

    began_s = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began_s)


def beside(one, two, model, array, rounds):
    """Take turns between two servers; return what each answers, and the median of the rounds' ratios."""
    for port in (one, two):
        rate(port, model, array)
    pairs = [(rate(one, model, array), rate(two, model, array)) for _ in range(rounds)]
    of_one, of_two = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return {"one_per_s": round(of_one, 1), "two_per_s": round(of_two, 1), "ratio": round(ratio, 2)}


def main():
    """Measure, and hold it against the bars."""
    arguments = parser(
        __doc__,
        full="thirty rounds, not five",
        sabotage="the second server has no second replica",
    ).parse_args()
    rounds = 1 if arguments.sabotage else 30 if arguments.full else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [waiting_bundle(folder / "waiting"), cnn(folder / "cnn.onnx"), TINY]
        spread = ["waiting=one,two", "cnn=cpu,cpu", "relu=cpu,cpu"]
        more = [word for text in spread for word in ("--replicas", text)]
        plain = [*models, "--threads", "1"]
        with (
            server(plain, folder / "one") as one,
            server([*plain, *([] if arguments.sabotage else more)], folder / "two") as two,
        ):
            detail = {
                "accelerator": beside(one, two, "waiting", np.zeros((1, 16), np.float32), rounds),
                "processor": beside(one, two, "cnn", np.zeros((1, 3, SIDE, SIDE), np.float32), rounds),
                "lone": {
                    what: compare(port, TINY, float(rounds), 0.0)
                    for what, port in (("without", one), ("with", two))
                },
            }
    ratio, lone_ms = detail["accelerator"]["ratio"], detail["lone"]["with"]["overhead_p50_ms"]
    claim = f"two replicas answer {BAR_RATIO} times as much, and a lone request pays at most {BAR_MS} ms"
    holds = ratio >= BAR_RATIO and lone_ms <= BAR_MS
    return finish(claim, ratio, "times as many answers", BAR_RATIO, holds, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
