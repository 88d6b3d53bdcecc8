"""What three models on one frame cost next to their bare inferences, one frame at a time.

    python benchmarks/stages.py [--model BUNDLE] [--video FILE] [--variant ID] [--pairs N] [--json]

A pipeline of three stages on frames (one file, opened three times, one thread each) gets a frame only when
the one before has its result. Its time from capture to result, with resizing, decoding of boxes, the
hand-overs between threads and events, is divided by the time of three inferences by hand on the bare
runtime, on three openings too. Both in turn, the median of the pairs; the frames are decoded beforehand.
Where the frame's time goes is printed beside it (``later``: what the others add to the first model's time,
beside which they run), and the ratio of CPU time, all threads and each turn's start and end included, which
says what the pipeline costs where no core is free.

Without ``--model`` it builds the zoo's object detector; where that cannot be fetched, it makes a network.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
from _report import finish, parser
from numpy.typing import NDArray
from pipeline_efficiency import BARE, THREADS, material, slow_down

from edgekit.agent.worker.runner import choices_of, make_rules
from edgekit.agent.worker.stage_models import StageModels
from edgekit.core.ports import IDENTITY, Frame, Result
from edgekit.model.holder import Holder
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.sources.timing import stamp

BAR = 1.05
FRAMES = 12
"""Of one turn."""
STAGES = ("first", "second", "third")
PARTS = ("pre", "infer", "post", "later")
"""Of the first model, and what all of the later ones add."""


class OneAtATime:
    """A source that gives a frame when the sinks have the one before."""

    is_live = False

    def __init__(self, pictures: list[NDArray[Any]]) -> None:
        self._pictures, self._seq = pictures, 0
        self._is_free = threading.Event()

    def open(self) -> None:
        """Let the first frame come."""
        self._is_free.set()

    def read(self) -> Frame | None:
        """Wait for the frame before, and return the next one."""
        self._is_free.wait()
        self._is_free.clear()
        seq, self._seq = self._seq, self._seq + 1
        return Frame(self._pictures[seq % len(self._pictures)], seq, *stamp(), {IDENTITY: str(seq)})

    def finished(self, _identity: str) -> None:
        """Let the next one come."""
        self._is_free.set()

    def close(self) -> None:
        """Wake a reader."""
        self._is_free.set()


class Latencies:
    """A sink that keeps each frame's times, in ms."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def write(self, result: Result) -> None:
        """Note them."""
        self._rows.append(dict(result.stage_ms))

    def medians(self) -> dict[str, float]:
        """Return the median of each part, and of the time from capture to result (``frame_ms``)."""
        parts = {"frame_ms": "latency"} | {f"{part}_ms": part for part in PARTS}
        return {
            name: round(statistics.median(row[part] for row in self._rows), 3) for name, part in parts.items()
        }

    def close(self) -> None:
        """Do nothing."""


def pipeline(model: Path, variant: str | None) -> PipelineConfig:
    """Return the pipeline; its source is never made."""
    chosen = f'variant = "{variant}"' if variant else ""
    stages = "".join(
        f'[[stage]]\nname = "{name}"\nmodel = "{model}"\nthreads = {THREADS}\n{chosen}\n' for name in STAGES
    )
    return parse_config(f'[pipeline]\nname = "stages"\n{stages}[source]\nkind = "synthetic"\n')


@contextlib.contextmanager
def opened(config: PipelineConfig, model: Path) -> Iterator[tuple[Holder, StageModels]]:
    """Open the first stage's model and the later ones."""
    with contextlib.closing(Holder(model, choices_of(config))) as holder:
        holder.ready.predictor.warm()
        with contextlib.closing(StageModels(config)) as later:
            yield holder, later


def frame_ms(
    config: PipelineConfig, holder: Holder, later: StageModels, pictures: list[Any]
) -> dict[str, float]:
    """Return the median time of a frame through the pipeline, and of its parts."""
    predictor, sink = holder.ready.predictor, Latencies()
    rules = make_rules(config, predictor, later.graph(), max_errors=1)
    Loop("stages", OneAtATime(pictures), predictor, (sink,), rules=rules).run(frames=FRAMES)
    return sink.medians()


def bare_ms(runs: list[Callable[[], object]]) -> float:
    """Return the median time of one inference of each."""
    times = []
    for _ in range(FRAMES):
        began_ns = time.perf_counter_ns()
        for run in runs:
            run()
        times.append((time.perf_counter_ns() - began_ns) / 1e6)
    return statistics.median(times)


def measure(model: Path, video: Path, variant: str | None, pairs: int, sabotage: bool) -> dict[str, Any]:
    """Return the times of each pair, in turn."""
    config = pipeline(model, variant)
    pictures = frames_of(video)
    with opened(config, model) as (holder, later):
        ready = holder.ready
        runs = [BARE[ready.variant.backend](ready) for _ in STAGES]
        if sabotage:
            slow_down(ready.predictor, bare_ms(runs) / 1e3)
        frame_ms(config, holder, later, pictures), bare_ms(runs)  # warm
        rows = []
        for turn in range(pairs):
            row: dict[str, float] = {}
            for name in (("frame", "bare"), ("bare", "frame"))[turn % 2]:
                began_s = time.process_time()
                if name == "bare":
                    row["bare_ms"] = round(bare_ms(runs), 3)
                else:
                    row |= frame_ms(config, holder, later, pictures)
                row[f"{name}_cpu_ms"] = round((time.process_time() - began_s) / FRAMES * 1e3, 3)
            rows.append(row)
        return {"variant": ready.variant.id, "pairs": rows}


def frames_of(video: Path) -> list[NDArray[Any]]:
    """Return the first frames of a video."""
    capture, pictures = cv2.VideoCapture(str(video)), []
    while len(pictures) < FRAMES and (read := capture.read())[0]:
        pictures.append(read[1])
    capture.release()
    return pictures


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parser(
        __doc__, full="60 pairs", sabotage="the first model takes as much longer as all three take"
    )
    options.add_argument("--model", type=Path, help="bundle of an image model")
    options.add_argument("--video", type=Path)
    options.add_argument("--variant")
    options.add_argument("--pairs", type=int, default=15)
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-stages-") as folder:
        model, video, note = material(args.model, args.video, Path(folder))
        pairs = 60 if args.full else args.pairs
        detail = measure(model.resolve(), video, args.variant, pairs, args.sabotage)
    value = round(statistics.median(row["frame_ms"] / row["bare_ms"] for row in detail["pairs"]), 4)
    cpu = (row["frame_cpu_ms"] / row["bare_cpu_ms"] for row in detail["pairs"])
    detail["cpu_ratio"] = round(statistics.median(cpu), 4)
    claim = "one frame through three models, over the sum of their bare inferences"
    return finish(claim, value, "ratio", BAR, value <= BAR, {"material": note, **detail}, args.json)


if __name__ == "__main__":
    sys.exit(main())
