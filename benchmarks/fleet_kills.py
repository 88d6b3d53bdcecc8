"""Whether a fleet manager that is killed at random, and its broker, lose or double an acknowledged message.

    python benchmarks/fleet_kills.py [--full] [--kills N] [--devices N] [--seed N] [--broker mosquitto]

Simulated devices (real protocol, real certificates) send metrics and events all the time, and delete what is
acknowledged. Meanwhile the fleet manager or its broker, drawn by the seed, is killed with ``kill -9`` at a
random moment, and runs again; then the next. ``--full``: 100 kills, otherwise 6.

The claim: in the end the database has every message that was acknowledged once, counted by sequence: each
device's rows are the numbers from 1 to its watermark, and the watermark is the last one it sent.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from _fleet import Fleet, outcome_of
from _report import finish, parser

DEVICES = 100
CONNECT_S = 3.0
LONGEST_S = 4.0
"""Between two kills, at most; the shortest is none, and may meet a start."""
EACH_S = 7.0
"""A kill with what follows takes less than this, on a machine that does nothing else."""


def main() -> int:
    """Kill, count, and hold the count of lost and doubled messages against zero."""
    words = parser(__doc__, full="100 kills", sabotage="a row is deleted from the database")
    words.add_argument("--kills", type=int, help="instead of 6, or 100 with --full")
    words.add_argument("--devices", type=int, default=DEVICES, help=f"default {DEVICES}")
    words.add_argument("--seed", type=int, default=0, help="draws what is killed, and when (default 0)")
    words.add_argument("--broker", choices=("embedded", "mosquitto"), default="embedded")
    words.add_argument("--each-s", type=float, default=EACH_S, help=f"time for each kill, default {EACH_S:g}")
    arguments = words.parse_args()
    kills = arguments.kills or (100 if arguments.full else 2 if arguments.sabotage else 6)
    with tempfile.TemporaryDirectory(prefix="edgekit-kills-") as folder:
        detail = measure(Path(folder), kills, arguments.devices, random.Random(arguments.seed), arguments)
    wrong = detail["lost"] + detail["doubled"] + detail["unacknowledged"] + detail["dropped"]
    claim = f"{kills} kills of fleet manager and broker lose and double no acknowledged message"
    return finish(claim, wrong, "messages", 0, wrong == 0 and detail["records"] > 0, detail, arguments.json)


def measure(folder: Path, kills: int, devices: int, dice: random.Random, options: Any) -> dict[str, Any]:
    """Run devices, kill, and return what is stored beside what was sent."""
    with Fleet(folder, broker=options.broker) as fleet:
        fleet.enrol(devices)
        load = ("--report-s", "1", "--event-s", "1", "--connect-s", str(CONNECT_S))
        simulation = fleet.simulate(devices, "--seconds", str(kills * options.each_s), *load)
        ends_s = time.monotonic() + CONNECT_S + kills * options.each_s
        try:
            time.sleep(CONNECT_S)
            killed = rampage(fleet, kills, dice)
            if (
                time.monotonic() > ends_s
            ):  # the last kills met devices that had little time left to send again
                raise SystemExit("the kills took longer than the devices sent: give them a longer --each-s")
            outcome = outcome_of(simulation)
        finally:
            simulation.kill()  # without effect on one that has ended
        if options.sabotage:
            with closing(sqlite3.connect(fleet.data / "fleet.sqlite")) as sql, sql:
                sql.execute("DELETE FROM metric WHERE id = (SELECT max(id) FROM metric)")
        stored = numbers(fleet.data, outcome["boot"])
    rows = sum(count for count, _, _ in stored)
    different = sum(count for _, count, _ in stored)
    promised = sum(watermark for _, _, watermark in stored)
    return {
        "kills": dict(killed),
        "devices": devices,
        "records": outcome["records"],
        "acknowledged": promised,
        "stored": rows,
        "lost": promised - different,
        "doubled": rows - different,
        "unacknowledged": outcome["unacknowledged"],
        "dropped": outcome["dropped"],
        "repeated": outcome["repeated"],
        "connections": outcome["connections"],
        "refused": outcome["refused"],
    }


def rampage(fleet: Fleet, kills: int, dice: random.Random) -> Counter[str]:
    """Kill so often, while the devices run; return how often which."""
    killed: Counter[str] = Counter()
    for _ in range(kills):
        time.sleep(dice.uniform(0, LONGEST_S))
        if dice.random() < 0.5:
            killed["broker"] += 1
            fleet.kill_broker()
        else:
            killed["fleet"] += 1
            fleet.kill()
            fleet.start()
    return killed


def numbers(data: Path, boot: str) -> list[tuple[int, int, int]]:
    """Return for each device of this boot how many rows there are, how many numbers, and the watermark."""
    query = (
        "SELECT count(*), count(DISTINCT seq), watermark FROM outbox JOIN (SELECT outbox, seq FROM metric"
        " UNION ALL SELECT outbox, seq FROM event) ON outbox = outbox.id"
        " WHERE boot = ? AND seq BETWEEN 1 AND watermark GROUP BY outbox.id"
    )
    with closing(sqlite3.connect(data / "fleet.sqlite")) as sql:
        return list(sql.execute(query, (boot,)))


if __name__ == "__main__":
    sys.exit(main())
