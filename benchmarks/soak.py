"""What a pipeline leaves behind after many frames, reconnects and swaps, and whether it survives faults.

Three phases in one process, each sampled forty times: *frames* through source, model and a file of results;
*swaps* of the model between two frames; *reconnects* of a sensor's line (a pseudo-terminal, unplugged).
Then a script of faults by seed on a running line: *unplugged*, *garbage* on the line, an *accelerator* that
is lost, a *disk* that takes no more (the kernel's limit on a file's size). Each must be counted by the
pipeline's own summary, and results must go on within the time stated for it in ``RECOVERY_S``.

The claim: resident memory, file descriptors and threads are flat. A slope is by least squares over the last
three quarters of a phase; it fails where even the lower end of its 95 % interval is above the bar.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import finish, parser

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kit"))

from pipeline_fakes import make_manifest, make_predictor, spec

from edgekit.agent.supervisor.memory import slope_of
from edgekit.core.ports import Result
from edgekit.core.spec import Post, Pre
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.jsonl import JsonlOptions
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.serial import SerialOptions, SerialSource, open_serial
from edgekit.pipeline.sources.synthetic import SyntheticOptions, SyntheticSource

FRAMES, SWAPS, RECONNECTS, FAULTS = 12_000, 400, 60, 24
FULL_FACTOR = 400
SAMPLES = 40
BAR_MIB = 2.0
"""Growth that is allowed in 100,000 frames, 1,000 swaps or 1,000 reconnects."""
BAR_HANDLES = 1.0
"""The same for descriptors and threads."""
RECOVERY_S = {"unplugged": 3.0, "garbage": 1.0, "accelerator": 1.0, "disk": 1.0}
PER = {"frames": 100_000, "swaps": 1_000, "reconnects": 1_000}
WINDOWS = SourceContext(window=4, hop=2, channels=3)
WAIT_S = 60.0


@dataclass
class Resources:
    """What this process had, at each count of a phase."""

    counts: list[int] = field(default_factory=list)
    rows: list[tuple[float, int, int]] = field(default_factory=list)

    def sample(self, count: int) -> None:
        """Note MiB, descriptors and threads."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = (
            pages * resource.getpagesize() / 2**20,
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threading.active_count(),
        )
        self.counts.append(count)
        self.rows.append(row)

    def slopes(self, per: int) -> dict[str, dict[str, float]]:
        """Return the slope of each and half of its 95 % interval, for so many."""
        first = len(self.rows) // 4
        out = {}
        for at, name in enumerate(("mib", "descriptors", "threads")):
            pairs = [
                (float(c), float(r[at])) for c, r in zip(self.counts[first:], self.rows[first:], strict=True)
            ]
            slope = slope_of(pairs)
            out[name] = {
                "slope": round(slope.mb_per_s * per, 3),
                "half_95": round(1.96 * slope.error * per, 3),
            }
        return out


class Counter:
    """A sink that counts results, and leaks where that is the sabotage."""

    def __init__(self, *, leaks: bool) -> None:
        self.count, self._leaks, self._kept = 0, leaks, list[bytes]()

    def write(self, result: Result) -> None:
        """Count."""
        self.count = self.count + 1
        if self._leaks:
            self._kept.append(bytes(1024))
        del result

    def close(self) -> None:
        """Do nothing."""


def wait_until(claim: Callable[[], bool], limit_s: float = WAIT_S) -> float:
    """Wait for a claim; return how long that took, or infinity if it never came."""
    began_s = time.monotonic()
    while not claim():
        if time.monotonic() - began_s > limit_s:
            return float("inf")
        time.sleep(0.001)
    return time.monotonic() - began_s


def window_predictor(**options: Any) -> Any:
    """Return a scripted model of windows."""
    manifest = make_manifest(
        "sensor",
        inputs=(spec("x", (1, 4, 3)),),
        pre=Pre(resize="none", window=4, hop=2),
        post=Post(decoder="sensor"),
    )
    return make_predictor(manifest, **options)


def phase_of_frames(folder: Path, frames: int, *, leaks: bool) -> Resources:
    """Run so many frames through a loop with a file of results."""
    seen, counter = Resources(), Counter(leaks=leaks)
    sinks = [counter, make_sink("jsonl", JsonlOptions(path="f.jsonl", max_mb=1), SinkContext("soak", folder))]
    source = SyntheticSource(SyntheticOptions(frames=frames, width=32, height=24, shapes=1), SourceContext())
    loop = Loop("frames", source, make_predictor(), sinks)
    thread = threading.Thread(target=loop.run)
    thread.start()
    for step in range(1, SAMPLES + 1):
        wait_until(lambda at=step * frames // SAMPLES: counter.count >= at or not thread.is_alive(), 3600)
        seen.sample(counter.count)
    thread.join()
    return seen


def phase_of_swaps(swaps: int) -> Resources:
    """Swap the model of a running loop so often."""
    seen, counter = Resources(), Counter(leaks=False)
    source = SyntheticSource(SyntheticOptions(width=32, height=24, shapes=1), SourceContext())
    loop = Loop("swaps", source, make_predictor(), [counter])
    thread = threading.Thread(target=loop.run)
    thread.start()
    wait_until(lambda: counter.count > 0)
    for swap in range(1, swaps + 1):
        loop.swap(make_predictor()).backend.close()
        if swap % max(1, swaps // SAMPLES) == 0:
            seen.sample(swap)
    loop.stop()
    thread.join()
    return seen


class Line:
    """A sensor on a pseudo-terminal that writes without end, and can be unplugged."""

    def __init__(self) -> None:
        self.opened, self._sensor, self._port, self._n = 0, -1, -1, 0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._writer = threading.Thread(target=self._write)
        self._writer.start()

    def open(self, options: SerialOptions) -> Any:
        """Open the port as pyserial does, of a new line."""
        with self._lock:
            self._sensor, self._port = os.openpty()
            tty.setraw(self._port)
            self.opened += 1
            return open_serial(SerialOptions(uri=os.ttyname(self._port), baud=options.baud))

    def _write(self) -> None:
        while not self._ended.wait(0.002):
            rows = b"".join(b"%d,0.5,-1\n" % (self._n + k) for k in range(4))
            self._n += 4
            self.send(rows)

    def send(self, data: bytes) -> None:
        """Write bytes, if it is plugged in."""
        with self._lock:
            if self._sensor >= 0:
                os.write(self._sensor, data)

    def unplug(self) -> None:
        """Close both ends."""
        with self._lock:
            for descriptor in (self._sensor, self._port):
                if descriptor >= 0:
                    os.close(descriptor)
            self._sensor = self._port = -1

    def end(self) -> None:
        """End the writer."""
        self._ended.set()
        self._writer.join()
        self.unplug()


class Rig:
    """A running pipeline on a line, with a counter and a file of results."""

    def __init__(self, folder: Path) -> None:
        self.line, self.counter = Line(), Counter(leaks=False)
        self.source = SerialSource(SerialOptions(uri="soak", give_up_s=0), WINDOWS, self.line.open)
        self.path = folder / "r.jsonl"
        sink = make_sink("jsonl", JsonlOptions(path=str(self.path), max_mb=1000), SinkContext("soak", folder))
        self.loop = Loop(
            "line",
            self.source,
            window_predictor(),
            [self.counter, sink],
            failover=lambda _lost, _error: window_predictor(),
        )
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()
        wait_until(lambda: self.counter.count > 0)

    def recovery_s(self) -> float:
        """Return the time until two more results, of which the second began after this call."""
        count = self.counter.count
        return wait_until(lambda: self.counter.count >= count + 2)

    def end(self) -> dict[str, Any]:
        """Stop, and return the summary."""
        self.loop.stop()
        self._thread.join()
        self.line.end()
        return self.loop.stats()


def phase_of_reconnects(folder: Path, reconnects: int) -> tuple[Resources, int, float]:
    """Unplug a line so often; return what was left, how often it came back, and the longest outage."""
    seen, rig, longest_s = Resources(), Rig(folder), 0.0
    for turn in range(1, reconnects + 1):
        rig.line.unplug()
        wait_until(lambda turn=turn: rig.source.reopener.reopened >= turn)
        longest_s = max(longest_s, rig.recovery_s())
        if turn % max(1, reconnects // SAMPLES) == 0:
            seen.sample(turn)
    return seen, rig.end()["source"]["reopened"], longest_s


def plant(rig: Rig, fault: str) -> float:
    """Plant a fault on a running pipeline; return the seconds until results go on."""
    if fault == "unplugged":
        before = rig.source.reopener.reopened
        rig.line.unplug()
        return wait_until(lambda: rig.source.reopener.reopened > before) + rig.recovery_s()
    if fault == "garbage":
        before = rig.source.rejected
        rig.line.send(b"no,sample,at all\n")
        wait_until(lambda: rig.source.rejected > before)
    elif fault == "accelerator":
        before = rig.loop.tally.failovers
        rig.loop.swap(window_predictor(lose_at=1))
        wait_until(lambda: rig.loop.tally.failovers > before)
    else:
        before, soft = rig.loop.tally.sink_errors, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (rig.path.stat().st_size, hard))
        wait_until(lambda: rig.loop.tally.sink_errors > before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        size = rig.path.stat().st_size
        return wait_until(lambda: rig.path.stat().st_size > size)
    return rig.recovery_s()


def phase_of_faults(folder: Path, faults: int) -> dict[str, Any]:
    """Run the script of faults; return what was planted, what was counted, and the longest recoveries."""
    script = [*RECOVERY_S] * (faults // len(RECOVERY_S))
    random.Random(16).shuffle(script)
    rig, longest_s = Rig(folder), dict.fromkeys(RECOVERY_S, 0.0)
    for fault in script:
        longest_s[fault] = max(longest_s[fault], plant(rig, fault))
    document = rig.end()
    planted = {fault: script.count(fault) for fault in RECOVERY_S}
    counted = {
        "unplugged": document["source"]["reopened"],
        "garbage": document["source"]["rejected"],
        "accelerator": document["failovers"],
        "disk": document["errors"],
    }
    frames = document["frames"]
    is_whole = frames["captured"] == sum(
        frames[name] for name in ("processed", "dropped", "failed", "skipped")
    )
    return {"planted": planted, "counted": counted, "longest_s": longest_s, "frames_add_up": is_whole}


def is_survived(faults: dict[str, Any]) -> bool:
    """Return whether each fault was counted, and results went on in time."""
    planted, counted = faults["planted"], faults["counted"]
    exact = all(counted[name] == planted[name] for name in ("unplugged", "garbage", "accelerator"))
    # a full disk fails each result until it has room
    in_time = all(faults["longest_s"][name] <= limit_s for name, limit_s in RECOVERY_S.items())
    return exact and counted["disk"] >= planted["disk"] and in_time and faults["frames_add_up"]


def is_flat(slopes: dict[str, dict[str, float]]) -> bool:
    """Return whether no slope is above its bar even at the lower end of its interval."""
    bars = {"mib": BAR_MIB, "descriptors": BAR_HANDLES, "threads": BAR_HANDLES}
    return all(slopes[name]["slope"] - slopes[name]["half_95"] <= bar for name, bar in bars.items())


def main() -> int:
    """Run the phases and print the outcome."""
    arguments = parser(
        __doc__,
        full=f"{FULL_FACTOR} times as much of each: hours",
        sabotage="a kilobyte leaks with each frame",
    ).parse_args()
    factor = FULL_FACTOR if arguments.full else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phases = {"frames": phase_of_frames(folder, FRAMES * factor, leaks=arguments.sabotage)}
        phases["swaps"] = phase_of_swaps(SWAPS * factor)
        phases["reconnects"], reopened, longest_s = phase_of_reconnects(folder, RECONNECTS * factor)
        faults = phase_of_faults(folder, FAULTS * factor)
    slopes = {name: phase.slopes(PER[name]) for name, phase in phases.items()}
    holds = all(map(is_flat, slopes.values())) and is_survived(faults) and reopened == RECONNECTS * factor
    detail = {
        "counts": {"frames": FRAMES * factor, "swaps": SWAPS * factor, "reconnects": reopened},
        "slopes_per": {name: {"per": PER[name], **slopes[name]} for name in slopes},
        "longest_outage_s": round(longest_s, 3),
        "faults": faults,
    }
    claim = "memory, descriptors and threads are flat, and each planted fault is counted and survived"
    value = slopes["frames"]["mib"]["slope"]
    return finish(claim, value, "MiB in 100,000 frames", BAR_MIB, holds, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
