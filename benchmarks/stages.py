"""What three models on one frame cost next to their bare inferences, one frame at a time.

    python benchmarks/stages.py [--model BUNDLE] [--video FILE] [--variant ID] [--pairs N] [--json]

A pipeline of three stages on frames (one file, opened three times, one thread each) gets a frame only when
the one before has its result. Its time from capture to result, with resizing, decoding of boxes, the two
hand-overs between threads and events, is divided by the time of three inferences by hand on the bare
runtime, on three openings too. Both in turn, the median of the pairs; the frames are decoded beforehand.

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
from edgekit.core.ports import Frame, Result
from edgekit.model.holder import Holder
from edgekit.pipeline.config import PipelineConfig, parse_config
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.sources.timing import stamp

BAR = 1.05
FRAMES = 12
"""Of one turn."""
STAGES = ("first", "second", "third")
SABOTAGE_SHARE = 0.1


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
        return Frame(self._pictures[seq % len(self._pictures)], seq, *stamp())

    def finished(self, _frame: Frame) -> None:
        """Let the next one come."""
        self._is_free.set()

    def close(self) -> None:
        """Wake a reader."""
        self._is_free.set()


class Latencies:
    """A sink that keeps each frame's time from capture to result, in ms."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def write(self, result: Result) -> None:
        """Note it."""
        self.ms.append(result.stage_ms["latency"])

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


def frame_ms(config: PipelineConfig, holder: Holder, later: StageModels, pictures: list[Any]) -> float:
    """Return the median time of a frame through the pipeline."""
    predictor, sink = holder.ready.predictor, Latencies()
    rules = make_rules(config, predictor, later.graph(), max_errors=1)
    Loop("stages", OneAtATime(pictures), predictor, (sink,), rules=rules).run(frames=FRAMES)
    return statistics.median(sink.ms)


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
            slow_down(ready.predictor, SABOTAGE_SHARE * bare_ms(runs) / 1e3)
        frame_ms(config, holder, later, pictures), bare_ms(runs)  # warm
        rows = []
        for turn in range(pairs):
            row = {}
            for name in (("frame_ms", "bare_ms"), ("bare_ms", "frame_ms"))[turn % 2]:
                took = bare_ms(runs) if name == "bare_ms" else frame_ms(config, holder, later, pictures)
                row[name] = round(took, 3)
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
    options = parser(__doc__, full="60 pairs", sabotage="a frame takes a tenth of the inferences more")
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
    claim = "one frame through three models, over the sum of their bare inferences"
    return finish(claim, value, "ratio", BAR, value <= BAR, {"material": note, **detail}, args.json)


if __name__ == "__main__":
    sys.exit(main())
