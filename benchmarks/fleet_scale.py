"""Whether a fleet manager on this machine keeps up with thousands of devices, on its disk and a slower one.

    python benchmarks/fleet_scale.py [--full] [--broker mosquitto] [--sync-ms 0] [--json] [--keep DIR]

Simulated devices with certificates of their own report every 30 s and have an event a minute, over the
real protocol; the fleet manager, its broker and the simulator share this machine. Twice: on this disk, and
with 2 ms more for each sync (a preloaded library, compiled here with gcc). Meanwhile four routes of the API
and six pages are requested, as a browser that is signed in does, four a second. ``--full``: 10,000 devices
for ten minutes each; otherwise 500 for half a minute.

The claim: nothing is lost, counted by sequence in the database; no backlog is left; the slower of the two
99th percentiles of the time to the acknowledgement is under 0.3 s, from half a minute after the last device
has connected (``reconnect_storm.py`` judges the time before), that of API and pages under 250 ms, and fleet
manager and broker together take under 600 MB; what each takes is printed too. The broker is the one that
the documentation names for so many devices: mosquitto from 3,000 on, else the embedded nats-server. How
many records a second ingest can take at most stands in ``ingest_rate.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _fleet import Fleet, broker_for, cpu_s, outcome_of, p99_ms, watch
from _report import finish, parser
from ingest_rate import NO_TOOL, SHIM

ACK_MS, PAGE_MS, MEMORY_MB = 300.0, 250.0, 600.0
DELAY_MS = 2
API = ("/api/v1/devices", "/api/v1/events", "/api/v1/health", "/metrics")
PAGES = ("/", "/devices", "/devices?state=online&sort=fps", "/devices/sim-00007", "/rollouts", "/bundles")
LOOK_S = 0.25
"""One request each so often, in turn: more than a room of operators causes."""


def main() -> int:
    """Run both disks, and hold the worse figures against the bars."""
    words = parser(__doc__, full="10,000 devices for ten minutes", sabotage="300 ms more a sync")
    words.add_argument("--devices", type=int, help="instead of 500, or 10,000 with --full")
    words.add_argument("--seconds", type=int, help="instead of 30, or 600 with --full")
    words.add_argument("--broker", choices=("embedded", "mosquitto"), help="instead of the one for so many")
    words.add_argument("--sync-ms", type=int, choices=(0, DELAY_MS), help="only this disk")
    words.add_argument("--keep", type=Path, help="a folder for the fleet, used again by the next run")
    arguments = words.parse_args()
    if shutil.which("gcc") is None:
        print("fleet_scale: needs gcc, to make a slower disk: apt-get install gcc", file=sys.stderr)
        return NO_TOOL
    devices = arguments.devices or (10_000 if arguments.full else 50 if arguments.sabotage else 500)
    seconds = arguments.seconds or (600 if arguments.full else 10 if arguments.sabotage else 30)
    delays: tuple[int, ...] = (300,) if arguments.sabotage else (0, DELAY_MS)
    delays = delays if arguments.sync_ms is None else (arguments.sync_ms,)
    broker = arguments.broker or broker_for(devices)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-scale-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        shim = _shim(folder)
        runs = {
            f"{delay} ms more a sync": run(folder, shim, delay, devices, seconds, broker) for delay in delays
        }
    worst = {
        name: max(each[name] for each in runs.values()) for name in ("ack_p99_ms", "page_p99_ms", "memory_mb")
    }
    lost = sum(each["lost"] + each["left"] + each["doubled"] for each in runs.values())
    holds = not lost and worst["ack_p99_ms"] < ACK_MS
    holds = holds and worst["page_p99_ms"] < PAGE_MS and worst["memory_mb"] < MEMORY_MB
    claim = (
        f"{devices} devices, {broker} broker: 0 lost, acknowledged p99 under {ACK_MS:g} ms,"
        f" API p99 under {PAGE_MS:g} ms, fleet and broker under {MEMORY_MB:g} MB"
    )
    return finish(claim, worst["ack_p99_ms"], "ms", ACK_MS, holds, runs | {"worst": worst}, arguments.json)


def _shim(folder: Path) -> Path:
    """Compile the library that delays each sync by ``EDGEKIT_SYNC_DELAY_US``."""
    path = folder / "shim.so"
    source = SHIM.replace("#include <unistd.h>", "#include <unistd.h>\n#include <stdlib.h>") + (
        "__attribute__((constructor)) static void begin(void) {"
        ' const char *us = getenv("EDGEKIT_SYNC_DELAY_US"); delay_us = us ? atol(us) : 0; }\n'
    )
    command = ["gcc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(path), "-ldl"]
    subprocess.run(command, input=source.encode(), check=True)
    return path


def run(folder: Path, shim: Path, delay_ms: int, devices: int, seconds: int, broker: str) -> dict[str, Any]:
    """Run the devices against a fleet manager whose syncs take so much longer."""
    environment = {"LD_PRELOAD": str(shim), "EDGEKIT_SYNC_DELAY_US": str(delay_ms * 1000)}
    with Fleet(folder, environment if delay_ms else None, broker) as fleet:
        connect_s = str(max(devices / 150, 5))
        fleet.enrol(devices)
        began, before = time.monotonic(), fleet.cpu_s()
        simulation = fleet.simulate(devices, "--seconds", str(seconds), "--connect-s", connect_s)
        looks = Looks()
        looks.follow(fleet, simulation)
        outcome = outcome_of(simulation)
        took_s = time.monotonic() - began
        after = {name: value - before[name] for name, value in fleet.cpu_s().items()}
        stored = fleet.stored(outcome["boot"])
        counters = fleet.json("/api/v1/metrics")["ingest"]
    rows = sum(count for count, _ in stored.values())
    return {
        "lost": max(outcome["records"] - rows, 0),
        "doubled": max(rows - outcome["records"], 0),
        "left": outcome["unacknowledged"],
        "records": outcome["records"],
        "records_per_s": round(outcome["records"] / took_s, 1),
        "repeated": outcome["repeated"],
        "refused": outcome["refused"],
        "ack_ms": outcome["acknowledged_ms"],
        "steady_ms": outcome["steady_ms"],
        "by_minute": outcome["by_minute"],
        "ack_p99_ms": outcome["steady_ms"]["p99"],
        "page_p99_ms": p99_ms([took for each in looks.seconds.values() for took in each]),
        "page_p99_ms_by_path": {path: p99_ms(each) for path, each in looks.seconds.items()},
        "pages": sum(map(len, looks.seconds.values())),
        "memory_mb": looks.memory_mb["both"],
        "memory_mb_by_process": looks.memory_mb,
        "processor": {name: round(value / took_s, 3) for name, value in (after | looks.cpu_s).items()},
        "store_failures": counters.get("store_failures", 0),
    }


@dataclass
class Looks:
    """What was seen while devices ran."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {path: [] for path in (*API, *PAGES)})
    """How long each request of a path took."""
    memory_mb: dict[str, float] = field(default_factory=dict)
    """The most that fleet manager and broker had, each, and both together."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Of the simulator."""

    def follow(self, fleet: Fleet, simulation: subprocess.Popen[bytes]) -> None:
        """Request one path after the other until the simulation has ended."""
        paths = itertools.cycle(self.seconds)
        for _ in watch(simulation, LOOK_S):
            path = next(paths)
            self.seconds[path].append(fleet.get(path)[0])
            memory_mb = fleet.memory_mb()
            for name, value in (memory_mb | {"both": sum(memory_mb.values())}).items():
                self.memory_mb[name] = max(self.memory_mb.get(name, 0.0), round(value, 1))
            self.cpu_s = {"simulator": cpu_s(simulation.pid) or self.cpu_s.get("simulator", 0.0)}


if __name__ == "__main__":
    sys.exit(main())
