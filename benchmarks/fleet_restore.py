"""How soon a fleet that was restored from a backup acknowledges every device again, and what it says it lost.

    python benchmarks/fleet_restore.py [--devices N] [--load-s S] [--full] [--json]

Simulated devices (real protocol, real certificates) send metrics and events all the time. While they do, a
backup is made. They go on for ``--load-s`` seconds, and all of it is acknowledged, so that they delete it.
Then the fleet manager is killed with ``kill -9``, its folder is thrown away, the backup is restored into a
new one, and a fleet manager starts on it, on the same ports.

The claim: within a minute of that start the watermark of every device's outbox moves again. And: what is lost
is counted exactly, for each device the stored rows and the recorded gaps are its watermark, no row is there
twice, and the number of ``timestamp`` is above the last one that devices could see.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
from _report import finish, parser

from edgekit.core import wire
from edgekit_fleet.cli.simulate import enrol
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.simulator import outbox as simulated
from edgekit_fleet.simulator.run import Outcome, simulate
from edgekit_fleet.simulator.weather import Plan

BAR_S = 60.0
PATIENCE_S = 75.0
AFTER_S = 10.0
COMMAND = (sys.executable, "-m", "edgekit_fleet.cli.main")


class Fleet:
    """``edgekit-fleet serve`` on one folder, as a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        data.mkdir(exist_ok=True)
        serve = ("serve", "--data", str(data), "--port", "0", "--broker-port", "0", "--json")
        with (data.parent / f"{data.name}.log").open("ab") as log:
            self.process = subprocess.Popen([*COMMAND, *serve], stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError((data.parent / f"{data.name}.log").read_text()[-3000:])
        self.url = str(json.loads(line)["url"])
        self.client = FleetClient(self.url, (data / "admin.token").read_text().strip())

    def timestamp(self) -> int:
        """Return the version of the timestamp that devices see."""
        return int(
            json.loads(self.client.send("GET", "/tuf/metadata/timestamp.json").body)["signed"]["version"]
        )

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read its database."""
        with sqlite3.connect(f"file:{self.data / 'fleet.sqlite'}?mode=ro", uri=True) as database:
            return database.execute(query, values).fetchall()


def command(*words: object) -> None:
    """Run an ``edgekit-fleet`` command."""
    subprocess.run([*COMMAND, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def measure(work: Path, devices: int, load_s: float) -> dict[str, Any]:
    """Run all of it; return the figures."""
    fleet = Fleet(work / "first")
    command("keys", "init", "--keys", work / "keys", "--data", fleet.data)
    identities = enrol(fleet.client, work / "devices", "sim-", devices)
    connect_s = max(5.0, devices / 200)
    plan = Plan(seconds=connect_s + load_s + PATIENCE_S + AFTER_S, connect_s=connect_s, report_s=5, event_s=5)
    outcomes: list[Outcome] = []
    running = threading.Thread(target=lambda: outcomes.append(simulate(identities, plan)))
    running.start()
    time.sleep(connect_s + 10)
    (work / "word").write_text("correct horse")
    secret = ("--passphrase-file", work / "word")
    began_s = time.monotonic()
    command("backup", work / "backup.tar", "--data", fleet.data, *secret)
    backup_s = time.monotonic() - began_s
    time.sleep(load_s)
    seen = fleet.timestamp()
    fleet.kill()
    command("restore", work / "backup.tar", "--data", work / "second", *secret, "--former", fleet.data)
    shutil.rmtree(fleet.data)
    restored = Fleet(work / "second")
    seconds = moved_after_s(restored, devices)
    after = restored.timestamp()
    running.join()
    time.sleep(1)
    figures = judged(restored, outcomes[0])
    restored.kill()
    whole = outcomes[0].document
    return {
        "devices": devices,
        "load_s": load_s,
        "backup_s": round(backup_s, 2),
        "seconds": seconds,
        "timestamp": {"seen_before": seen, "after": after},
        **figures,
        "unacknowledged": whole["unacknowledged"],
        "dropped": whole["dropped"],
    }


def moved_after_s(fleet: Fleet, devices: int) -> float:
    """Return the seconds until every outbox's watermark is above the restored one and waits for nothing."""
    began_s = time.monotonic()
    first = dict(fleet.rows("SELECT device, watermark FROM outbox"))
    while (passed_s := time.monotonic() - began_s) < PATIENCE_S:
        now = fleet.rows("SELECT device, watermark FROM outbox WHERE ranges = '[]'")
        if sum(watermark > first.get(device, 0) for device, watermark in now) == devices:
            return round(passed_s, 2)
        time.sleep(0.1)
    return PATIENCE_S


def judged(fleet: Fleet, outcome: Outcome) -> dict[str, Any]:
    """Return the lost messages, and the devices whose rows, gaps and watermark do not add up."""
    stored: dict[str, int] = {}
    gaps: dict[str, int] = {}
    doubled = 0
    for table in ("metric", "event"):
        query = f"SELECT device, count(*), count(DISTINCT seq) FROM {table} JOIN outbox ON outbox.id = outbox"
        where = "" if table == "metric" else " AND kind != 'gap'"
        query = query.replace("SELECT device", "SELECT outbox.device")
        for device, rows, different in fleet.rows(f"{query} WHERE boot = ?{where} GROUP BY 1", outcome.boot):
            stored[device] = stored.get(device, 0) + rows
            doubled += rows - different
    for device, body in fleet.rows("SELECT device, body FROM event WHERE kind = 'gap'"):
        gap = json.loads(body)
        gaps[device] = gaps.get(device, 0) + gap["last"] - gap["first"] + 1
    wrong = [
        device
        for device, (_, watermark) in outcome.sent.items()
        if stored.get(device, 0) + gaps.get(device, 0) != watermark
    ]
    return {
        "lost": sum(gaps.values()),
        "stored": sum(stored.values()),
        "doubled": doubled,
        "wrong": len(wrong),
    }


def forget_what_is_left() -> None:
    """Have devices say nothing of what they still have, as before there was such a field."""
    whole = simulated.Outbox.batches

    def silent(outbox: simulated.Outbox, now_s: float) -> list[tuple[str, bytes]]:
        said = [(leaf, wire.decode(body, wire.RawBatch)) for leaf, body in whole(outbox, now_s)]
        return [(leaf, wire.encode(msgspec.structs.replace(batch, lowest=0))) for leaf, batch in said]

    simulated.Outbox.batches = silent  # type: ignore[method-assign]


def main() -> int:
    """Run, print, and say whether the bar holds."""
    options = parser(
        __doc__, full="2,000 devices, an hour of load", sabotage="devices do not say what they still have"
    )
    options.add_argument("--devices", type=int, metavar="N", help="default 200")
    options.add_argument("--load-s", type=float, metavar="S", help="load after the backup, default 15")
    arguments = options.parse_args()
    if arguments.sabotage:
        forget_what_is_left()
    devices = arguments.devices or (2000 if arguments.full else 200)
    load_s = arguments.load_s or (3600.0 if arguments.full else 15.0)
    with tempfile.TemporaryDirectory() as work:
        detail = measure(Path(work), devices, load_s)
    seconds = detail.pop("seconds")
    is_exact = not detail["wrong"] and not detail["doubled"] and not detail["unacknowledged"]
    is_ahead = detail["timestamp"]["after"] > detail["timestamp"]["seen_before"]
    return finish(
        "after a restore every device is acknowledged again, and the hole is counted exactly",
        seconds,
        "s",
        BAR_S,
        seconds < BAR_S and is_exact and is_ahead and detail["lost"] > 0,
        detail,
        arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
