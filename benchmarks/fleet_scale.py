"""Whether a fleet manager on this machine keeps up with thousands of devices, on its disk and a slower one.

    python benchmarks/fleet_scale.py [--full] [--json] [--keep DIR]

Simulated devices with certificates of their own report every 30 s and have an event a minute, over the
real protocol; the fleet manager, its broker and the simulator share this machine. Twice: on this disk, and
with 2 ms more for each sync (a preloaded library, compiled here with gcc). Meanwhile the API and the pages
are requested. ``--full``: 10,000 devices for ten minutes each; otherwise 500 for half a minute.

The claim: nothing is lost, counted by sequence in the database; no backlog is left; the slower of the two
99th percentiles of the time to the acknowledgement is under 0.3 s, that of API and pages under 250 ms, and
fleet manager and broker together take under 600 MB. How many records a second ingest can take at most
stands in ``ingest_rate.py``.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _fleet import Fleet, outcome_of, p99_ms, watch
from _report import finish, parser
from ingest_rate import NO_TOOL, SHIM

ACK_MS, PAGE_MS, MEMORY_MB = 300.0, 250.0, 600.0
DELAY_MS = 2
PAGES = ("/api/v1/devices", "/api/v1/events", "/api/v1/health", "/metrics")


def main() -> int:
    """Run both disks, and hold the worse figures against the bars."""
    words = parser(__doc__, full="10,000 devices for ten minutes", sabotage="300 ms more a sync")
    words.add_argument("--devices", type=int, help="instead of 500, or 10,000 with --full")
    words.add_argument("--seconds", type=int, help="instead of 30, or 600 with --full")
    words.add_argument("--keep", type=Path, help="a folder for the fleet, used again by the next run")
    arguments = words.parse_args()
    if shutil.which("gcc") is None:
        print("fleet_scale: needs gcc, to make a slower disk: apt-get install gcc", file=sys.stderr)
        return NO_TOOL
    devices = arguments.devices or (10_000 if arguments.full else 50 if arguments.sabotage else 500)
    seconds = arguments.seconds or (600 if arguments.full else 10 if arguments.sabotage else 30)
    delays = (300,) if arguments.sabotage else (0, DELAY_MS)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-scale-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        shim = _shim(folder)
        runs = {f"{delay} ms more a sync": run(folder, shim, delay, devices, seconds) for delay in delays}
    worst = {
        name: max(each[name] for each in runs.values()) for name in ("ack_p99_ms", "page_p99_ms", "memory_mb")
    }
    lost = sum(each["lost"] + each["left"] + each["doubled"] for each in runs.values())
    holds = not lost and worst["ack_p99_ms"] < ACK_MS
    holds = holds and worst["page_p99_ms"] < PAGE_MS and worst["memory_mb"] < MEMORY_MB
    claim = (
        f"{devices} devices: 0 lost, acknowledged p99 under {ACK_MS:g} ms, API p99 under {PAGE_MS:g} ms,"
        f" fleet and broker under {MEMORY_MB:g} MB"
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


def run(folder: Path, shim: Path, delay_ms: int, devices: int, seconds: int) -> dict[str, Any]:
    """Run the devices against a fleet manager whose syncs take so much longer."""
    environment = {"LD_PRELOAD": str(shim), "EDGEKIT_SYNC_DELAY_US": str(delay_ms * 1000)}
    with Fleet(folder, environment if delay_ms else None) as fleet:
        connect_s = str(max(devices / 150, 5))
        fleet.simulate(devices, "--seconds", "0", "--connect-s", "1").wait()  # enrols those that are new
        simulation = fleet.simulate(devices, "--seconds", str(seconds), "--connect-s", connect_s)
        pages, memory, began = [], 0.0, time.monotonic()
        for _ in watch(simulation, 0.5):
            pages += [fleet.get(path)[0] for path in PAGES]
            memory = max(memory, sum(fleet.memory_mb().values()))
        outcome = outcome_of(simulation)
        took_s = time.monotonic() - began
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
        "ack_p99_ms": outcome["acknowledged_ms"]["p99"],
        "page_p99_ms": p99_ms(pages),
        "memory_mb": round(memory, 1),
        "store_failures": counters.get("store_failures", 0),
    }


if __name__ == "__main__":
    sys.exit(main())
