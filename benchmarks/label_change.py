"""Whether a change for one label of thousands of devices holds up what all of them send.

    python benchmarks/label_change.py [--full] [--broker mosquitto] [--json] [--keep DIR]

All simulated devices have one label, report each 30 s and have an event a minute. Once they are connected,
the camera list of the label changes: each device gets a signed document of its own and reports that it has
accepted it (a simulated device fetches no list). ``--full``: 10,000 devices, otherwise 300, more often. The
broker is the one that the documentation names for so many devices.

The claim: every device has accepted the change, every record is acknowledged, and the 99th percentile of the
time to the acknowledgement is under 0.3 s, of all records that were acknowledged from the change until the
last device had accepted it.
"""

from __future__ import annotations

import contextlib
import csv
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _fleet import Fleet, broker_for, outcome_of, p99_ms
from _report import finish, parser

BAR_MS = 300.0
LABEL = "everyone"
STEADY_S = 30.0
"""From the last connection to the change."""
CHANGE_S = 120.0
"""The change is over within this, or the devices end before it is."""


def main() -> int:
    """Change the list, and hold the acknowledgements meanwhile against the bar."""
    words = parser(__doc__, full="10,000 devices", sabotage="another process holds the database for 2 s")
    words.add_argument("--devices", type=int, help="instead of 300, or 10,000 with --full")
    words.add_argument("--broker", choices=("embedded", "mosquitto"), help="instead of the one for so many")
    words.add_argument("--keep", type=Path, help="a folder for the fleet, used again by the next run")
    arguments = words.parse_args()
    devices = arguments.devices or (10_000 if arguments.full else 50 if arguments.sabotage else 300)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-label-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        fleet = stack.enter_context(Fleet(folder, broker=arguments.broker or broker_for(devices)))
        detail = measure(fleet, folder, devices, arguments.sabotage)
    value = detail["change_p99_ms"]
    holds = detail["accepted"] == devices and not detail["unacknowledged"] and value < BAR_MS
    claim = f"one change for {devices} devices: all accept it, acknowledged p99 meanwhile under {BAR_MS:g} ms"
    return finish(claim, value, "ms", BAR_MS, holds, detail, arguments.json)


def measure(fleet: Fleet, folder: Path, devices: int, sabotage: bool) -> dict[str, Any]:
    """Run the devices, change their list, and return how long acknowledgements took meanwhile."""
    fleet.enrol(devices)
    give_label(fleet, devices)
    connect_s, log = max(devices / 150, 3.0), folder / "acknowledged.csv"
    life = ("--seconds", str(STEADY_S + CHANGE_S), "--connect-s", str(connect_s))
    often = () if devices > 1000 else ("--report-s", "3", "--event-s", "6")  # enough for a percentile
    simulation = fleet.simulate(devices, *life, *often, "--log", str(log))
    time.sleep(connect_s + STEADY_S)
    documents = versions(fleet)
    began_s = time.time()
    if sabotage:
        with contextlib.closing(sqlite3.connect(fleet.data / "fleet.sqlite", timeout=60)) as sql:
            sql.execute("BEGIN IMMEDIATE")
            time.sleep(2)
    uri = f"rtsp://10.0.0.1/{time.time_ns()}"
    request_s = fleet.put(
        f"/api/v1/cameras/label/{LABEL}", {"cameras": [{"name": "door", "kind": "camera", "uri": uri}]}
    )
    accepted = 0
    while accepted < devices and time.time() < began_s + CHANGE_S - 5:
        accepted = sum(version > documents.get(device, 0) for device, version in taken(fleet).items())
        time.sleep(0.5)
    ended_s = time.time()
    outcome = outcome_of(simulation)
    with log.open() as file:
        rows = [(float(row["unix_s"]), float(row["took_s"])) for row in csv.DictReader(file)]
    during = [took_s for when_s, took_s in rows if began_s <= when_s <= ended_s]
    before = [took_s for when_s, took_s in rows if began_s - STEADY_S / 2 <= when_s < began_s]
    return {
        "accepted": accepted,
        "change_s": round(ended_s - began_s, 1),
        "request_s": round(request_s, 2),
        "change_p99_ms": p99_ms(during),
        "change_max_ms": round(max(during, default=0.0) * 1000, 1),
        "change_records": len(during),
        "before_p99_ms": p99_ms(before),
        "unacknowledged": outcome["unacknowledged"],
        "records": outcome["records"],
        "repeated": outcome["repeated"],
    }


def give_label(fleet: Fleet, devices: int) -> None:
    """Give every device the label that has not got it, before they connect."""
    with contextlib.closing(sqlite3.connect(fleet.data / "fleet.sqlite")) as sql:
        labelled = {device for (device,) in sql.execute("SELECT device FROM device_label")}
    for device in (f"sim-{number:05d}" for number in range(devices)):
        if device not in labelled:
            fleet.put(f"/api/v1/devices/{device}/labels", {"labels": [LABEL]})


def versions(fleet: Fleet) -> dict[str, int]:
    """Return the version of each device's document."""
    return _versions(fleet, "SELECT device, version FROM desired")


def taken(fleet: Fleet) -> dict[str, int]:
    """Return the version of the document that each device has accepted."""
    return _versions(fleet, "SELECT id, desired FROM device WHERE desired IS NOT NULL")


def _versions(fleet: Fleet, query: str) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(fleet.data / "fleet.sqlite")) as sql:
        return dict(sql.execute(query))


if __name__ == "__main__":
    sys.exit(main())
