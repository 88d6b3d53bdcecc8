"""Whether a pipeline keeps its latency budget while its model is three times as slow, and recovers after.

    python benchmarks/latency_budget.py [--json]

A network of ten convolutions, wide and narrow, both on OpenVINO; the pipeline names the wide one. The
loop runs as in ``edgekit run``, on frames at a steady rate, with ``order = ["rate", "variant"]`` and a
budget of twice the 95th percentile that was measured before. For a while each run of a model then takes
three times as long: the planted delay is twice the time that the run itself took, so it slows every
variant alike. The figure is the 95th percentile during the slow-down, from ``SETTLE_S`` after its
beginning, over the budget. It holds too if, within 10 s of its end, nothing is given up any more and the
budget is kept, and if the setting changes at most twice a minute while the load is steady.

The wide network takes about 10 ms on a core, so that what others do on the machine (a scheduler's
slice is 4 ms) is small beside it. With one of 2.4 ms the 95th percentile that was measured before was up to
2.6 times the median, and three times as slow was within the budget or at its edge.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _report import finish, parser

BAR = 1.1
RECOVERED_BAR_S = 10.0
CHANGES_BAR = 2
SLOWER = 3.0
CALM_S, SETTLE_S, STEADY_S, AFTER_S = 6.0, 8.0, 60.0, 30.0
NAMES = ("wide", "narrow")
SIDE_PX = 256


def main() -> int:
    """Measure, print, return the exit code."""
    arguments = parser(
        __doc__, full="the slow-down lasts five minutes", sabotage="nobody keeps the budget"
    ).parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        os.environ["EDGEKIT_CACHE"] = f"{folder}/cache"  # the costs measured here stay here
        steady_s = 300.0 if arguments.full else 10.0 if arguments.sabotage else STEADY_S
        outcome = measure(Path(folder), steady_s, has_keeper=not arguments.sabotage)
    ratio = outcome["slow_p95_ms"] / outcome["budget_ms"]
    holds = (
        ratio <= BAR
        and outcome["recovered_s"] is not None
        and outcome["recovered_s"] <= RECOVERED_BAR_S
        and outcome["most_changes_a_minute"] <= CHANGES_BAR
    )
    claim = "p95 over the budget while the model is three times as slow"
    return finish(claim, round(ratio, 4), "ratio", BAR, holds, outcome, arguments.json)


def measure(folder: Path, steady_s: float, *, has_keeper: bool) -> dict[str, Any]:
    """Run the pipeline through calm, slow-down and recovery; return what happened."""
    from edgekit.agent.worker.runner import make_keeper, make_loop
    from edgekit.backends.openvino import OpenVinoBackend
    from edgekit.model.holder import Holder
    from edgekit.model.ready import Choices, ReadyModel
    from edgekit.pipeline.config import parse_config

    bundle = write_bundle(folder / "bundle")
    work_ms = measure_costs(bundle)
    fps = min(60.0, 0.4e3 / work_ms)
    frames: list[tuple[float, float]] = []
    changes: list[tuple[float, str]] = []
    factor = [1.0]
    run = OpenVinoBackend.run

    def slowed(backend: OpenVinoBackend) -> Any:
        began = time.perf_counter()
        outputs = run(backend)
        time.sleep((factor[0] - 1) * (time.perf_counter() - began))
        return outputs

    def seen(result: Any) -> None:
        frames.append((time.monotonic(), result.stage_ms["latency"]))

    def switch(_: ReadyModel, new: ReadyModel) -> None:
        loop.swap(new.predictor)

    holder = Holder(bundle, Choices(variant=NAMES[0], threads=1))
    OpenVinoBackend.run = slowed  # type: ignore[method-assign]
    try:
        loop = make_loop(parse_config(pipeline(fps, 0)), holder.ready.predictor, callback=seen)
        loop.run(seconds=CALM_S)
        calm_ms = p95(frames, 0)
        config = parse_config(pipeline(fps, 2 * calm_ms))
        keeper = make_keeper(
            config,
            lambda step: holder.change_to(step, switch),
            lambda text, _: changes.append((time.monotonic(), text)),
        )
        loop = make_loop(config, holder.ready.predictor, keeper=keeper if has_keeper else None, callback=seen)
        times = script(loop, factor, steady_s)
    finally:
        OpenVinoBackend.run = run  # type: ignore[method-assign]
        holder.close()
    return report(frames, changes, times, 2 * calm_ms) | {
        "calm_p95_ms": round(calm_ms, 2),
        "fps": round(fps, 1),
    }


def script(loop: Any, factor: list[float], steady_s: float) -> tuple[float, float, float]:
    """Run the loop through the three parts; return when the slow-down began and ended, and the end."""
    import threading

    began = time.monotonic() + CALM_S
    ended = began + SETTLE_S + steady_s

    def slow() -> None:
        time.sleep(CALM_S)
        factor[0] = SLOWER
        time.sleep(ended - began)
        factor[0] = 1.0

    thread = threading.Thread(target=slow)
    thread.start()
    loop.run(seconds=CALM_S + ended - began + AFTER_S)
    thread.join()
    return began, ended, ended + AFTER_S


def report(
    frames: list[tuple[float, float]],
    changes: list[tuple[float, str]],
    times: tuple[float, float, float],
    budget_ms: float,
) -> dict[str, Any]:
    """Return the figures of a run."""
    began, ended, end = times
    last = changes[-1] if changes else (began, "full")
    is_full = not changes or "-> full:" in last[1]
    good_s = max(last[0] - ended, 0.0)
    is_kept = p95(frames, ended + RECOVERED_BAR_S, end) <= budget_ms
    steady = [at for at, _ in changes if began + SETTLE_S <= at < ended]
    return {
        "budget_ms": round(budget_ms, 2),
        "slow_p95_ms": round(p95(frames, began + SETTLE_S, ended), 2),
        "recovered_s": round(good_s, 2) if is_full and is_kept else None,
        "after_p95_ms": round(p95(frames, ended + RECOVERED_BAR_S, end), 2),
        "most_changes_a_minute": max((sum(at <= x < at + 60 for x in steady) for at in steady), default=0),
        "changes": [{"s": round(at - began, 1), "what": text} for at, text in changes],
        "frames": len(frames),
        "load_average": os.getloadavg()[0],
    }


def p95(frames: list[tuple[float, float]], begin: float, end: float = float("inf")) -> float:
    """Return the 95th percentile of the latencies in a span of time."""
    return float(np.percentile([ms for at, ms in frames if begin <= at < end], 95))


def pipeline(fps: float, budget_ms: float) -> str:
    """Return the pipeline's file."""
    return f"""
[pipeline]
name = "bench"
model = "unused"
[source]
kind = "synthetic"
realtime = true
fps = {fps}
width = {SIDE_PX}
height = {SIDE_PX}
[budget]
p95_ms = {budget_ms}
order = ["rate", "variant"]
[[sink]]
kind = "callback"
"""


def measure_costs(bundle: Path) -> float:
    """Measure both variants as ``edgekit bench`` does, remember it, and return the wide one's median."""
    from edgekit.model.bundle import open_bundle
    from edgekit.model.costs import MeasuredCost, cost_key, save_costs
    from edgekit.model.ready import Choices, open_ready

    opened = open_bundle(bundle)
    costs = {}
    for variant in opened.manifest.variants:
        ready = open_ready(opened, Choices(variant=variant.id, threads=1))
        costs[cost_key(variant, 1)] = MeasuredCost(median_ms(ready.backend.run), 0.0, 0.0, 0.0, 0)
        ready.close()
    save_costs(costs)
    return max(cost.p50_ms for cost in costs.values())


def median_ms(infer: Callable[[], object]) -> float:
    """Return a run's median milliseconds."""
    rows = []
    for _ in range(40):
        began = time.perf_counter()
        infer()
        rows.append((time.perf_counter() - began) * 1e3)
    return float(np.median(rows))


def write_bundle(folder: Path) -> Path:
    """Write the classifier, with weights from a seed, as a bundle of two variants."""
    import hashlib

    folder.mkdir()
    variants = []
    for name, channels in zip(NAMES, (32, 16), strict=True):
        write_network(folder / f"{name}.xml", channels)
        files = [
            {
                "path": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in (folder / f"{name}.xml", folder / f"{name}.bin")
        ]
        variants.append({"id": name, "backend": "openvino", "files": files, "layout": "NCHW"})
    manifest = {
        "format": 1,
        "model": "made",
        "version": "1.0.0",
        "task": "classify",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [1, SIDE_PX, SIDE_PX, 3], "layout": "NHWC"}
        ],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 12]}],
        "pre": {"mean": [127.5], "std": [127.5]},
        "post": {"decoder": "classify", "score_threshold": 0.0},
        "variants": variants,
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def write_network(path: Path, channels: int) -> None:
    """Write ten convolutions of so many channels, and twelve scores."""
    import openvino
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    image = op.parameter([1, 3, SIDE_PX, SIDE_PX], np.float32, name="image")
    node, before = image, 3
    for layer in range(10):
        after = 12 if layer == 9 else channels
        weights = rng.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        stride = [2, 2] if layer == 0 else [1, 1]
        node = op.relu(op.convolution(node, op.constant(weights), stride, [1, 1], [1, 1], [1, 1]))
        before = after
    pooled = op.squeeze(op.reduce_mean(node, op.constant([2, 3]), True), op.constant([2, 3]))
    scores = op.softmax(pooled, 1)
    scores.output(0).get_tensor().set_names({"scores"})
    image.output(0).get_tensor().set_names({"image"})
    openvino.save_model(openvino.Model([scores], [image], "made"), str(path), False)


if __name__ == "__main__":
    sys.exit(main())
