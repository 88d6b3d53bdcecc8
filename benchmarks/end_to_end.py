"""What edgekit adds from end to end: to the runtime, to capture, to the processor's time, to latency.

    python benchmarks/end_to_end.py [--model BUNDLE] [--video FILE] [--variant ID] [--json]

Each figure is edgekit's loop (capture, resizing, inference, decoding, events, a file of JSON lines) and its
yardstick, written by hand on the bare libraries with the same file and threads, in turn in one run:

- ``inference``: frames a second where the model is the limit, one thread of the runtime and another core
  free, over the bare runtime's inferences a second; median of the pairs; at least 0.97.
- ``capture``: frames a second where decoding is the limit (a model that answers at once), over OpenCV's bare
  decoding of the same 1280 x 720 video; at least 0.97. One thread decodes on both sides: by default OpenCV's
  decoder takes every core, so that there is none for anything else, and the figure says how many cores a
  machine has and not what edgekit adds to capture.
- ``cpu``: the processor's time of a frame with every core loaded by other processes, over bare decoding plus
  bare inference; at most 1.03. ``cpu_resize`` is what no pipeline can do without and the bare libraries here
  do not do: a ``cv2.resize`` of the frame to the model's size, over the same bare time. No bar.
- ``added_latency_p95_ms``: from a frame's capture to its sink, less a bare inference beside it, at half the
  rate that the model could do: the 95th percentile of the paired differences. No bar.

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
from _report import finish, parser
from pipeline_efficiency import BARE, THREADS, made_model, pipeline, rate, slow_down

RATE_BAR, CPU_BAR = 0.97, 1.03


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
        video = arguments.video or made_video(folder / "made.mp4", 60 if arguments.sabotage else 200)
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
    run = loop_of(opened.predictor, video, folder)
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
    detail["capture"] = capture_ratio(video, folder, pairs, seconds)
    with loaded_cores():
        rows = cpu_rows(run, bare, video, max(3, pairs // 3), max(40, int(2 / inference_s)))
        detail["cpu"] = ratio_of(rows)
        resize_s = resize_cpu_s(opened.predictor, video)
        detail["cpu_resize"] = round(resize_s / statistics.median(theirs for _, theirs in rows), 4)
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


def loop_of(
    predictor: Predictor, video: Path, folder: Path, options: str = ""
) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the pipeline on the video, as fast as possible."""
    config = pipeline(video, folder, f"loop = true\n{options}")
    return lambda **limit: make_loop(config, predictor).run(**limit)


# ---------------------------------------------------------------------------------------------
# Capture is the limit


def capture_ratio(video: Path, folder: Path, pairs: int, seconds: float) -> float:
    """Return the loop's frames a second over OpenCV's, for a model that answers at once."""
    opened = open_ready(instant_model(folder), Choices())
    try:
        run = loop_of(opened.predictor, video, folder, "threads = 1")
        reader = Reader(video, threads=1)
        run(frames=20)
        return ratio_of(
            in_turn(lambda: run(seconds=seconds)["fps"], lambda: rate(reader.next, seconds), pairs)
        )
    finally:
        opened.close()


class Reader:
    """OpenCV's bare decoding, from the beginning again at the end."""

    def __init__(self, video: Path, threads: int = 0) -> None:
        self._video = str(video)
        self._settings = [cv2.CAP_PROP_N_THREADS, threads]
        self._capture = self._opened()

    def _opened(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(self._video, cv2.CAP_ANY, self._settings)

    def next(self) -> Any:
        """Return the next frame."""
        is_there, pixels = self._capture.read()
        if not is_there:
            self._capture.release()
            self._capture = self._opened()
            return self._capture.read()[1]
        return pixels


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


def made_video(path: Path, frames: int) -> Path:
    """Write a video of moving boxes, 1280 x 720, MPEG-4."""
    from edgekit.pipeline.sources.synthetic import SyntheticOptions, shapes

    options = SyntheticOptions(width=1280, height=720, shapes=6)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (1280, 720))
    for seq in range(frames):
        writer.write(shapes(options, seq))
    writer.release()
    return path


# ---------------------------------------------------------------------------------------------
# The processor's time


def cpu_rows(
    run: Callable[..., dict[str, Any]], bare: Callable[[], object], video: Path, pairs: int, frames: int
) -> list[tuple[float, float]]:
    """Return the processor's seconds of a frame, (the loop's, bare decoding plus bare inference), in turn."""

    def ours() -> float:
        began = cpu_s()
        return (cpu_s_after(lambda: run(frames=frames)) - began) / frames

    def theirs() -> float:
        began, reader = cpu_s(), Reader(video)  # the loop opens the file each time too
        for _ in range(frames):
            reader.next()
            bare()
        return (cpu_s() - began) / frames

    return in_turn(ours, theirs, pairs)


def resize_cpu_s(predictor: Predictor, video: Path, times: int = 200) -> float:
    """Return the processor's seconds of resizing a frame, the same each time: less than in a pipeline."""
    pixels, shape = Reader(video).next(), predictor.image_input()
    if shape is None:
        return 0.0
    began, resized = cpu_s(), np.empty((*shape[:2], 3), np.uint8)
    for _ in range(times):
        cv2.resize(pixels, (shape[1], shape[0]), dst=resized)
    return (cpu_s() - began) / times


def cpu_s_after(work: Callable[[], object]) -> float:
    """Do the work, and return the processor's time of this process then."""
    work()
    return cpu_s()


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
    config = pipeline(video, folder, f"loop = true\nrealtime = true\nfps = {fps}", sink="callback")
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
