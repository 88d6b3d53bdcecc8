"""What edgekit adds from end to end: to the runtime, to capture, to the processor's time, to latency.

    python benchmarks/end_to_end.py [--model BUNDLE] [--video FILE] [--variant ID] [--json]

Each figure is edgekit's loop (capture, resizing, inference, decoding, events, a file of JSON lines) and its
yardstick, written by hand on the bare libraries with the same file and threads, in turn in one run:

- ``inference``: frames a second where the model is the limit, one thread of the runtime and another core
  free, over the bare runtime's inferences a second; median of the pairs; at least 0.97.
- ``capture``: frames a second where decoding is the limit (a model that answers at once), over OpenCV's bare
  decoding of the same 1280 x 720 video; at least 0.97.
- ``cpu``: the processor's time of a frame with every core loaded by other processes, over bare decoding plus
  bare inference; at most 1.03. ``cpu_resize`` is what no pipeline can do without and the bare libraries here
  do not do: a ``cv2.resize`` of the frame to the model's size, over the same bare time. No bar.
- ``added_latency_p95_ms``: from a frame's capture to its sink, less a bare inference beside it, at half the
  rate that the model could do: the 95th percentile of the paired differences. No bar.

One thread decodes, on every side. By default OpenCV's decoder takes every core: there would be no free one
beside an inference, and a figure would say how many cores a machine has and not what edgekit adds.

The video is like a camera's: a texture that sways, with a sensor's noise, at 8 Mbit/s. Boxes of flat colours,
which this measured before, decode at 2,000 frames a second, and no camera gives such pictures; what a loop
adds to each frame (two threads that hand over 2.8 MB from core to core) is the same. ``capture_flat`` is
their figure. No bar.

``inference_least``, ``capture_least`` and ``cpu_least`` are the same ratios for ``LeastPipeline``: thirty
lines by hand that decode in one thread, and resize, infer and write a line in another. They show what of a
distance to a bar is the machine's: caches and memory that two threads share, switches between them, and the
resizing. No bar.

The value is the worst of the three ratios to its bar: 1 or more holds. The model and the video are made here
unless given; the zoo's int8 detector of 4 ms: ``edgekit zoo build ssd-oidv4 -o .`` and ``--variant``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.agent.worker.runner import make_loop
from edgekit.core.ports import Result
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parent))
from _by_hand import LeastPipeline, Reader
from _made_videos import camera_video, flat_video
from _report import finish, parser
from pipeline_efficiency import BARE, THREADS, made_model, pipeline, rate, slow_down

RATE_BAR, CPU_BAR = 0.97, 1.03
INSTANT_SIDE = (160, 160)


def main() -> int:
    """Measure, print, return the exit code."""
    options = parser(__doc__, full="five times as long", sabotage="each frame takes an inference more")
    options.add_argument("--model", type=Path, help="bundle of an image model")
    options.add_argument("--video", type=Path)
    options.add_argument("--variant")
    options.add_argument("--pairs", type=int, default=9)
    options.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    arguments = options.parse_args()
    if arguments.full:
        arguments.pairs *= 5
    if arguments.sabotage:
        arguments.pairs, arguments.seconds = 3, 0.4
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        folder = Path(name)
        video = arguments.video or camera_video(folder / "made.mp4", 60 if arguments.sabotage else 200)
        opened = open_ready(
            arguments.model or made_model(folder), Choices(variant=arguments.variant, threads=THREADS)
        )
        try:
            detail = measure(opened, video, folder, arguments)
        finally:
            opened.close()
    margins = [detail["inference"] / RATE_BAR]
    margins += [detail["capture"] / RATE_BAR, CPU_BAR / detail["cpu"]] if "cpu" in detail else []
    claim = "edgekit's rate and processor time over those of the bare libraries, the worst against its bar"
    value = round(min(margins), 4)
    return finish(claim, value, "ratio to its bar", 1.0, value >= 1.0, detail, arguments.json)


def measure(opened: ReadyModel, video: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return every figure; with ``--sabotage`` the first alone, which must not hold."""
    bare = BARE[opened.variant.backend](opened)
    inference_s = 1 / rate(bare, 0.5)
    if arguments.sabotage:
        slow_down(opened.predictor, inference_s)
    pairs, seconds = arguments.pairs, arguments.seconds
    run, least = loop_of(opened.predictor, video, folder), least_of(opened.predictor, bare, video, folder)
    run(frames=20)
    rows = in_turn(lambda: run(seconds=seconds)["fps"], lambda: rate(bare, seconds), pairs)
    detail: dict[str, Any] = {
        "model": opened.manifest.model,
        "variant": opened.variant.id,
        "threads": THREADS,
        "cores": os.cpu_count(),
        "inference_ms": round(inference_s * 1e3, 3),
        "inference": ratio_of(rows),
    }
    if arguments.sabotage:
        return detail
    few = max(3, pairs // 3)
    rows = in_turn(lambda: least.run(seconds=seconds), lambda: rate(bare, seconds), few)
    detail["inference_least"] = ratio_of(rows)
    detail |= capture_ratios(video, folder, pairs, seconds)
    with loaded_cores():
        detail |= cpu_ratios(run, least, bare, video, few, max(40, int(2 / inference_s)))
        bare_s = detail.pop("cpu_bare_s")
        detail["cpu_resize"] = round(resize_cpu_s(opened.predictor, video) / bare_s, 4)
    detail["added_latency_p95_ms"] = added_latency_ms(opened.predictor, bare, video, folder, inference_s)
    return detail


def in_turn(one: Callable[[], float], other: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Return (one, other) of each pair, each first in half of them."""
    rows = []
    for turn in range(pairs):
        if turn % 2:
            first = one()
            rows.append((first, other()))
        else:
            second = other()
            rows.append((one(), second))
    return rows


def ratio_of(rows: list[tuple[float, float]]) -> float:
    """Return the median of the pairs' ratios."""
    return round(statistics.median(a / b for a, b in rows), 4)


def loop_of(predictor: Predictor, video: Path, folder: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the pipeline on the video, as fast as possible."""
    config = pipeline(video, folder, "loop = true\nthreads = 1")
    return lambda **limit: make_loop(config, predictor).run(**limit)


def least_of(predictor: Predictor, bare: Callable[[], object], video: Path, folder: Path) -> LeastPipeline:
    """Return the least pipeline with the same model."""
    high, wide = (predictor.image_input() or INSTANT_SIDE)[:2]
    return LeastPipeline(video, (wide, high), bare, folder / "least.jsonl")


# ---------------------------------------------------------------------------------------------
# Capture is the limit


def capture_ratios(video: Path, folder: Path, pairs: int, seconds: float) -> dict[str, float]:
    """Return frames a second over OpenCV's, for a model that answers at once, also of flat boxes."""
    opened = open_ready(instant_model(folder), Choices())
    least = LeastPipeline(video, INSTANT_SIDE, lambda: None, folder / "least.jsonl")
    flat, few = flat_video(folder / "flat.mp4", 200), max(3, pairs // 3)
    try:
        return {
            "capture": capture_ratio(
                loop_rate(opened.predictor, video, folder, seconds), video, pairs, seconds
            ),
            "capture_least": capture_ratio(lambda: least.run(seconds=seconds), video, few, seconds),
            "capture_flat": capture_ratio(
                loop_rate(opened.predictor, flat, folder, seconds), flat, few, seconds
            ),
        }
    finally:
        opened.close()


def loop_rate(predictor: Predictor, video: Path, folder: Path, seconds: float) -> Callable[[], float]:
    """Return a function that measures the loop's frames a second."""
    run = loop_of(predictor, video, folder)
    run(frames=20)
    return lambda: run(seconds=seconds)["fps"]


def capture_ratio(ours: Callable[[], float], video: Path, pairs: int, seconds: float) -> float:
    """Return the median of a rate over that of bare decoding."""
    reader = Reader(video)
    return ratio_of(in_turn(ours, lambda: rate(reader.next, seconds), pairs))


def instant_model(folder: Path) -> Path:
    """Write a classifier on the null backend, which answers at once."""
    script = {
        "inputs": {"image": {"datatype": "UINT8", "shape": [1, 160, 160, 3]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [1, 2], "value": [[0.2, 0.8]]}},
    }
    manifest = {
        "format": 1,
        "model": "instant",
        "version": "1.0.0",
        "task": "classify",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 160, 160, 3], "layout": "NHWC"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 2]}],
        "post": {"decoder": "classify"},
        "variants": [{"id": "null", "backend": "null", "options": script}],
    }
    bundle = folder / "instant"
    bundle.mkdir()
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    return bundle


# ---------------------------------------------------------------------------------------------
# The processor's time


def cpu_ratios(
    run: Callable[..., dict[str, Any]],
    least: LeastPipeline,
    bare: Callable[[], object],
    video: Path,
    pairs: int,
    frames: int,
) -> dict[str, float]:
    """Return the processor's time of a frame over that of bare decoding plus bare inference, in turn."""

    def both() -> None:
        reader = Reader(video)  # the loop opens the file each time too
        for _ in range(frames):
            reader.next()
            bare()

    def frame_s(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: cpu_s_of(work) / frames

    rows = in_turn(frame_s(lambda: run(frames=frames)), frame_s(both), pairs)
    least_rows = in_turn(frame_s(lambda: least.run(frames=frames)), frame_s(both), pairs)
    bare_s = statistics.median(theirs for _, theirs in rows)
    return {"cpu": ratio_of(rows), "cpu_least": ratio_of(least_rows), "cpu_bare_s": bare_s}


def resize_cpu_s(predictor: Predictor, video: Path, times: int = 200) -> float:
    """Return the processor's seconds of resizing a frame, the same each time: less than in a pipeline."""
    pixels, shape = Reader(video).next(), predictor.image_input()
    if shape is None:
        return 0.0
    resized = np.empty((*shape[:2], 3), np.uint8)

    def resize() -> None:
        for _ in range(times):
            cv2.resize(pixels, (shape[1], shape[0]), dst=resized)

    return cpu_s_of(resize) / times


def cpu_s_of(work: Callable[[], object]) -> float:
    """Do the work, and return the processor's seconds that this process took for it."""
    began_s = cpu_s()
    work()
    return cpu_s() - began_s


def cpu_s() -> float:
    """Return the processor's seconds of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def loaded_cores() -> Iterator[None]:
    """Keep every core busy with a process of its own."""
    context = multiprocessing.get_context("spawn")
    burners = [context.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def burn() -> None:
    """Use a core."""
    while True:
        sum(range(10_000))


# ---------------------------------------------------------------------------------------------
# Latency


def added_latency_ms(
    predictor: Predictor, bare: Callable[[], object], video: Path, folder: Path, inference_s: float
) -> float:
    """Return the 95th percentile of (capture to sink, less a bare inference), at half the model's rate."""
    fps = min(60.0, 0.5 / inference_s)
    options = f"loop = true\nthreads = 1\nrealtime = true\nfps = {fps}"
    config = pipeline(video, folder, options, sink="callback")
    ours: list[float] = []

    def note(result: Result) -> None:
        ours.append(result.stage_ms["latency"])

    make_loop(config, predictor, callback=note).run(frames=100)
    theirs = []
    for _ in ours:
        began = time.perf_counter()
        bare()
        theirs.append((time.perf_counter() - began) * 1e3)
    return round(float(np.percentile(np.subtract(ours, theirs), 95)), 3)


if __name__ == "__main__":
    sys.exit(main())
