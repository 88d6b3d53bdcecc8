"""Whether a fleet manager takes all its devices back at once, and goes on acknowledging meanwhile.

    python benchmarks/reconnect_storm.py [--full] [--broker mosquitto|embedded] [--json] [--keep DIR]

Simulated devices connect, then all links break without a word, and all devices connect again, spread over
a minute. ``--full``: 10,000 devices, a report each 30 s and an event a minute as in ``fleet_scale.py``;
otherwise 300 within 3 s, the same 100 handshakes a second and more, that report three times as often.

The claim: no device is refused, all are back within 1.5 times the time over which they connect, and every
record is acknowledged. The broker is the one that the documentation names for so many devices.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from _fleet import Fleet, broker_for, outcome_of, watch
from _report import finish, parser

BAR = 1.5


def main() -> int:
    """Let the storm break, and hold the time until all are back against the bar."""
    words = parser(
        __doc__, full="10,000 devices within a minute", sabotage="a tenth of the devices are revoked"
    )
    words.add_argument("--devices", type=int, help="instead of 300, or 10,000 with --full")
    words.add_argument("--broker", choices=("embedded", "mosquitto"), help="instead of the one for so many")
    words.add_argument("--keep", type=Path, help="a folder for the fleet, used again by the next run")
    arguments = words.parse_args()
    devices = arguments.devices or (10_000 if arguments.full else 50 if arguments.sabotage else 300)
    within_s = 60.0 if arguments.full else max(devices / 100, 2.0)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-storm-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        fleet = stack.enter_context(Fleet(folder, broker=arguments.broker or broker_for(devices)))
        fleet.enrol(devices)
        if arguments.sabotage:
            for number in range(0, devices, 10):
                fleet.post(f"/api/v1/devices/sim-{number:05d}/revoke")
        load = (
            ("--report-s", "30", "--event-s", "60")
            if arguments.full
            else ("--report-s", "10", "--event-s", "20")
        )
        life_s = 10 + BAR * within_s + 5
        simulation = fleet.simulate(
            devices,
            *("--seconds", str(life_s), "--connect-s", str(within_s), "--storm-s", "10"),
            *("--storms", "1", *load),
        )
        memory = 0.0
        for _ in watch(simulation, 1.0):
            memory = max(memory, sum(fleet.memory_mb().values()))
        outcome = outcome_of(simulation)
        counters = fleet.json("/api/v1/metrics")["ingest"]
        stored = fleet.stored(outcome["boot"])
    rows = sum(count for count, _ in stored.values())
    back_s = outcome["storm_s"]
    refused = sum(outcome["refused"].values())
    all_back = back_s is not None and back_s <= BAR * within_s
    holds = all_back and not refused and not outcome["unacknowledged"] and rows == outcome["records"]
    value = round((back_s or 10 * BAR * within_s) / within_s, 3)
    detail = outcome | {
        "within_s": within_s,
        "rows": rows,
        "memory_mb": round(memory, 1),
        "counters": counters,
    }
    claim = f"{devices} devices that connect again within {within_s:g} s: none refused, all back, none lost"
    return finish(claim, value, "times the spread", BAR, holds, detail, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
