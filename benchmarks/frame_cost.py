"""The processor's time that a pipeline alone takes for a frame, over that of another checkout of edgekit.

    python benchmarks/frame_cost.py [--against CHECKOUT] [--bundle FOLDER] [--json]

Two processes, ``edgekit run`` of this checkout and of the other, each with folders of its own for caches and
state: the zoo's int8 detector of 4 ms (LiteRT, one thread) on a recording that is looped, as fast as it can,
to a file of JSON lines. Only one runs at a time: every half second one is stopped and the other continued, so
that both meet the same machine. A round's figure is one's seconds of the processor for each line that it
wrote, over the other's; each round starts new processes, as where the memory of a process happens to lie
changes its speed by a percent. The value is the median of the rounds; at most 1.02.

By default the other checkout is commit 7a142c7, the last one in which a pipeline alone had no lane, taken
from this repository's history. It builds the bundle, since it does not read newer manifests.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _report import finish, parser

from edgekit.core.errors import UsageError

BAR = 1.02
ROOT = Path(__file__).resolve().parents[1]
BEFORE = "7a142c7"
VARIANT = "litert-int8"
TURN_S = 0.5
WARM_FRAMES = 60
START_S = 60.0
COMMAND = """
import sys
import edgekit
from edgekit.cli.main import main
assert edgekit.__file__.startswith(sys.argv.pop(1)), edgekit.__file__
sys.exit(main())
"""
SLOWED = """
import time
from edgekit.pipeline.predictor import Predictor
infer = Predictor.infer
def late(*args):
    until_s = time.thread_time() + 0.0004
    while time.thread_time() < until_s:
        pass
    return infer(*args)
Predictor.infer = late
"""
PIPELINE = """
[pipeline]
name = "alone"
model = "{bundle}"
[model]
variant = "{variant}"
threads = 1
[source]
kind = "video"
uri = "{video}"
loop = true
[[sink]]
kind = "jsonl"
path = "results.jsonl"
"""


def main() -> int:
    """Measure, print, return the exit code."""
    options = parser(__doc__, full="four times as many rounds", sabotage="each frame takes 0.4 ms more")
    options.add_argument("--against", type=Path, metavar="CHECKOUT", help=f"default: commit {BEFORE}")
    options.add_argument("--bundle", type=Path, help="ssd-oidv4, built by the other checkout")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--pairs", type=int, default=24, help="turns of each in a round")
    arguments = options.parse_args()
    arguments.rounds *= 4 if arguments.full else 1
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        folder = Path(name)
        other = arguments.against.resolve() if arguments.against else checkout(folder / "before")
        bundle = arguments.bundle or built(other, folder)
        rounds = [
            one_round(other, bundle.resolve(), folder / str(n), arguments) for n in range(arguments.rounds)
        ]
    value = round(statistics.median(row["ratio"] for row in rounds), 4)
    detail = {"against": str(arguments.against or BEFORE), "rounds": rounds}
    claim = "the processor's time of a frame of edgekit run, over that of the other checkout"
    return finish(claim, value, "ratio", BAR, value <= BAR, detail, arguments.json)


def checkout(folder: Path) -> Path:
    """Unpack the commit from this repository's history.

    Raises:
        UsageError: There is no such commit here.
    """
    folder.mkdir()
    words = ["git", "-C", str(ROOT), "archive", BEFORE, "edgekit", "optimize", "models", "device_profiles"]
    packed = subprocess.run(words, capture_output=True, check=False)
    if packed.returncode:
        raise UsageError(f"commit {BEFORE}: {packed.stderr.decode().strip()}", hint="give --against CHECKOUT")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


def built(tree: Path, folder: Path) -> Path:
    """Build the detector with a checkout's zoo."""
    words = ["zoo", "build", "ssd-oidv4", "--variants", VARIANT, "-o", str(folder / "zoo")]
    subprocess.run(command(tree, *words), cwd=folder, env=environment(tree), capture_output=True, check=True)
    return next((folder / "zoo").iterdir())


def command(tree: Path, *words: str, before: str = "") -> list[str]:
    """Return the command line of a checkout's ``edgekit``."""
    return [sys.executable, "-c", before + COMMAND, str(tree), *words]


def environment(tree: Path, **more: str) -> dict[str, str]:
    """Return what has a process import a checkout."""
    return {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'optimize'}", **more}


def one_round(other: Path, bundle: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of a frame of both, and their ratio."""
    before = SLOWED if arguments.sabotage else ""
    with (
        running(ROOT, bundle, folder / "this", before) as this,
        running(other, bundle, folder / "other") as that,
    ):
        for turn in range(arguments.pairs):
            for run in ((this, that), (that, this))[turn % 2]:
                run.turn()
    return {
        "this_ms": round(this.frame_ms, 4),
        "other_ms": round(that.frame_ms, 4),
        "frames": [this.frames, that.frames],
        "ratio": round(this.frame_ms / that.frame_ms, 4),
    }


@contextlib.contextmanager
def running(tree: Path, bundle: Path, folder: Path, before: str = "") -> Iterator[Run]:
    """Have a checkout's pipeline run in a folder, stopped but in its turns."""
    from edgekit_optimize.zoo.recordings import recording

    folder.mkdir(parents=True)
    (folder / "alone.toml").write_text(
        PIPELINE.format(bundle=bundle, variant=VARIANT, video=recording("bikes"))
    )
    env = environment(tree, EDGEKIT_CACHE=str(folder / "cache"), EDGEKIT_STATE=str(folder / "state"))
    with (folder / "log").open("wb") as log:
        words = command(tree, "run", str(folder / "alone.toml"), before=before)
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        run = Run(process, folder)
        run.start()
        yield run
    finally:
        process.kill()
        process.wait()


class Run:
    """A running pipeline: ``frames`` that it has written in its turns, and ``frame_ms`` of the processor."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder
        self._clock = ~process.pid << 3 | 2  # Source: Linux, posix-timers.h, CPUCLOCK_SCHED of a process
        self._read = self.frames = 0
        self._cpu_s = 0.0

    @property
    def frame_ms(self) -> float:
        """Milliseconds of the processor for each frame."""
        return self._cpu_s / self.frames * 1e3

    def start(self) -> None:
        """Wait until it has written some frames, and stop it."""
        until_s, lines = time.monotonic() + START_S, 0
        while lines < WARM_FRAMES:
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit((self._folder / "log").read_text())
            time.sleep(0.02)
            lines += self._lines()
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        self._lines()

    def turn(self) -> None:
        """Let it run for half a second."""
        began_s = time.clock_gettime(self._clock)
        self._process.send_signal(signal.SIGCONT)
        time.sleep(TURN_S)
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)  # it stops once each of its threads has seen the signal
        self._cpu_s += time.clock_gettime(self._clock) - began_s
        self.frames += self._lines()

    def _lines(self) -> int:
        """Return how many lines are new."""
        path = self._folder / "results.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        return data.count(b"\n")


if __name__ == "__main__":
    sys.exit(main())
