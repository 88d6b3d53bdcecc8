"""What a whole pipeline costs next to its model alone, and whether frames queue up.

    python benchmarks/pipeline_efficiency.py [--model BUNDLE] [--video FILE] [--variant ID] [--json]

Two figures. Efficiency: frames a second of the loop that ``edgekit run`` runs (decoding, resizing,
inference, decoding of boxes, events, a file of JSON lines), divided by the inferences a second of a
hand-written loop on the bare runtime with the same file and threads; both in turn, the median of
the pairs. Queue: the same pipeline on a source that plays faster than the model runs; how much the
time from capture to sink grows from the beginning to the end of the run.

Without ``--model`` it builds the zoo's object detector; where that cannot be fetched, it makes a
convolutional network and a video of its own, and says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.agent.worker.runner import make_loop
from edgekit.core.errors import EdgekitError
from edgekit.core.ports import Result
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parent))
from _report import finish, parser

BAR = 0.90
QUEUE_BAR_MS_PER_S = 25.0
"""A queue without a bound would grow by 500 ms each second, at twice the frames that are taken."""
THREADS = 1
NOTE = "the zoo's object detector, float, on LiteRT: slow enough that inference is the bottleneck"


def main() -> int:
    """Measure, print, return the exit code."""
    options = parser(__doc__, full="four times as long", sabotage="each frame takes an inference more")
    options.add_argument("--model", type=Path, help="bundle of an image model")
    options.add_argument("--video", type=Path)
    options.add_argument("--variant")
    options.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    options.add_argument("--pairs", type=int, default=15)
    arguments = options.parse_args()
    if arguments.sabotage:
        arguments.pairs, arguments.seconds = 3, 0.7
    if arguments.full:
        arguments.pairs *= 4
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        model, video, note = material(arguments.model, arguments.video, Path(folder))
        opened = open_ready(model, Choices(variant=arguments.variant, threads=THREADS))
        try:
            outcome = measure(opened, video, Path(folder), arguments)
        finally:
            opened.close()
    ratio, queue = outcome["ratio"], outcome["queue"]
    holds = ratio >= BAR and queue["slope_ms_per_s"] <= QUEUE_BAR_MS_PER_S and queue["dropped"] > 0
    claim = "edgekit run's frames a second, over the bare runtime's inferences a second"
    detail = {"material": note, "model": opened.manifest.model, "variant": opened.variant.id, **outcome}
    return finish(claim, round(ratio, 4), "ratio", BAR, holds, detail, arguments.json)


# ---------------------------------------------------------------------------------------------
# What is measured


def measure(opened: ReadyModel, video: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ratio of each pair, their median, and how the queue behaves."""
    config = pipeline(video, folder, "loop = true")
    predictor = opened.predictor
    bare = BARE[opened.variant.backend](opened)
    pairs, seconds = arguments.pairs, arguments.seconds
    inference_s = 1 / rate(bare, 0.5)
    if arguments.sabotage:
        slow_down(predictor, inference_s)
    make_loop(config, predictor).run(frames=20)
    rows = []
    for turn in range(pairs):
        for is_bare in ((True, False), (False, True))[turn % 2]:
            if is_bare:
                bare_rate = rate(bare, seconds)
            else:
                fps = make_loop(config, predictor).run(seconds=seconds)["fps"]
        rows.append((fps, bare_rate))
    return {
        "ratio": statistics.median(fps / inferences for fps, inferences in rows),
        "pairs": [
            {"fps": round(fps, 2), "inferences_per_s": round(inferences, 2)} for fps, inferences in rows
        ],
        "threads": THREADS,
        "queue": queue(
            predictor,
            video,
            folder,
            statistics.median(b for _, b in rows),
            2.0 if arguments.sabotage else 10.0,
        ),
    }


def slow_down(predictor: Predictor, seconds: float) -> None:
    """Make each prediction take longer."""
    infer = predictor.infer

    def late(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return infer(*args, **kwargs)

    predictor.infer = late  # type: ignore[method-assign]


def rate(infer: Callable[[], object], seconds: float) -> float:
    """Return how often a function runs in a second."""
    count, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        infer()
        count += 1
    return count / (now - began)


def queue(
    predictor: Predictor, video: Path, folder: Path, inferences_per_s: float, seconds: float
) -> dict[str, Any]:
    """Return how the time from capture to sink develops while the source gives twice too much."""
    fps = min(1000.0, 2 * inferences_per_s)
    config = pipeline(video, folder, f"loop = true\nrealtime = true\nfps = {fps}", sink="callback")
    seen: list[tuple[float, float]] = []

    def note(result: Result) -> None:
        seen.append((result.frame.captured_ns / 1e9, result.stage_ms["latency"]))

    document = make_loop(config, predictor, callback=note).run(seconds=seconds)
    at, latency = np.array(seen[len(seen) // 20 :]).T
    slope = float(np.polyfit(at - at[0], latency, 1)[0])
    median = float(np.median(latency))
    return {
        "source_fps": round(fps, 1),
        "dropped": document["frames"]["dropped"],
        "processed": document["frames"]["processed"],
        "latency_p50_ms": round(median, 2),
        "slope_ms_per_s": round(slope, 4),
        "bar_ms_per_s": QUEUE_BAR_MS_PER_S,
    }


def pipeline(video: Path, folder: Path, options: str, sink: str = "jsonl") -> PipelineConfig:
    """Return the configuration of a pipeline on a video."""
    path = f'path = "{folder}/results.jsonl"' if sink == "jsonl" else ""
    text = f"""
[pipeline]
name = "bench"
model = "unused"
[source]
kind = "video"
uri = "{video.resolve()}"
{options}
[[sink]]
kind = "{sink}"
{path}
"""
    return parse_config(text)


# ---------------------------------------------------------------------------------------------
# The yardstick: each runtime's own loop, written by hand


def bare_litert(opened: ReadyModel) -> Callable[[], object]:
    """Return one inference on LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(opened.bundle.path(opened.variant)), num_threads=THREADS)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    run: Callable[[], object] = interpreter.invoke
    return run


def bare_onnxruntime(opened: ReadyModel) -> Callable[[], object]:
    """Return one inference on ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # right answers without VNNI too
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        str(opened.bundle.path(opened.variant)), options, providers=["CPUExecutionProvider"]
    )
    kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}
    binding = session.io_binding()
    for tensor in session.get_inputs():
        binding.bind_cpu_input(tensor.name, np.zeros(tensor.shape, kinds[tensor.type]))
    for tensor in session.get_outputs():
        binding.bind_output(tensor.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def bare_openvino(opened: ReadyModel) -> Callable[[], object]:
    """Return one inference on OpenVINO, at the precision that edgekit pins."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(opened.bundle.path(opened.variant)), "CPU", settings)
    request = compiled.create_infer_request()
    for tensor in compiled.inputs:
        request.set_tensor(tensor, openvino.Tensor(tensor.element_type, tensor.shape))
    return lambda: request.infer(share_outputs=True)


BARE: dict[str, Callable[[ReadyModel], Callable[[], object]]] = {
    "litert": bare_litert,
    "onnxruntime": bare_onnxruntime,
    "openvino": bare_openvino,
}


# ---------------------------------------------------------------------------------------------
# What it is measured on


def material(model: Path | None, video: Path | None, folder: Path) -> tuple[Path, Path, str]:
    """Return a model and a video, and what they are."""
    note = "given"
    if model is None:
        try:
            from edgekit_optimize.zoo.build import build

            model, note = build("ssd-oidv4", folder / "ssd", version="1.0.0", variants=["litert-fp32"]), NOTE
        except EdgekitError as cause:
            model, note = made_model(folder), f"made here, since the zoo's cannot be built: {cause.message}"
    if video is None:
        try:
            from edgekit_optimize.zoo.recordings import recording

            video = recording("bikes")
        except EdgekitError:
            video, note = made_video(folder / "made.mp4"), f"{note}; video made here"
    return model, video, note


def made_model(folder: Path) -> Path:
    """Write a classifier of ten convolutions, with weights from a seed, as a bundle."""
    import json

    import openvino
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    image = op.parameter([1, 3, 160, 160], np.float32, name="image")
    node, channels = image, 3
    for layer in range(10):
        wide = 48
        weights = rng.normal(0, (2 / (9 * channels)) ** 0.5, (wide, channels, 3, 3)).astype(np.float32)
        stride = [2, 2] if layer == 0 else [1, 1]
        node = op.relu(op.convolution(node, op.constant(weights), stride, [1, 1], [1, 1], [1, 1]))
        channels = wide
    pooled = op.squeeze(op.reduce_mean(node, op.constant([2, 3]), True), op.constant([2, 3]))
    scores = op.softmax(pooled, 1)
    scores.output(0).get_tensor().set_names({"scores"})
    image.output(0).get_tensor().set_names({"image"})
    bundle = folder / "made"
    bundle.mkdir()
    openvino.save_model(openvino.Model([scores], [image], "made"), str(bundle / "made.xml"), False)
    files = [_described(bundle, name) for name in ("made.xml", "made.bin")]
    variant = {"id": "openvino-fp32", "backend": "openvino", "files": files, "layout": "NCHW"}
    manifest = {
        "format": 1,
        "model": "made",
        "version": "1.0.0",
        "task": "classify",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 160, 160, 3], "layout": "NHWC"}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 48]}],
        "pre": {"mean": [127.5], "std": [127.5]},
        "post": {"decoder": "classify", "score_threshold": 0.0},
        "variants": [variant],
    }
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    return bundle


def _described(bundle: Path, name: str) -> dict[str, Any]:
    import hashlib

    data = (bundle / name).read_bytes()
    return {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def made_video(path: Path) -> Path:
    """Write 100 frames of moving boxes, 640 x 480."""
    from edgekit.pipeline.sources.synthetic import SyntheticOptions, shapes

    options = SyntheticOptions(width=640, height=480, shapes=6)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 480))
    for seq in range(100):
        writer.write(shapes(options, seq))
    writer.release()
    return path


if __name__ == "__main__":
    sys.exit(main())
