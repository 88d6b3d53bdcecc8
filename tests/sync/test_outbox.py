from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from conftest_sync import memory_path  # noqa: F401 - tmp_path, in memory

from edgekit.core import wire
from edgekit.core.errors import StorageError
from edgekit.core.sketch import Histogram
from edgekit.sync.outbox import Cursor, Outbox, Quota


def event(number: int, **extra) -> wire.EventRecord:
    return wire.EventRecord(
        mono_ns=number, unix_ms=number, pipeline="door", model="m", version="1.0.0", kind="appear",
        label=f"e{number}", **extra,
    )  # fmt: skip


def metric(number: int, pipeline: str = "door", **extra) -> wire.MetricReport:
    times = Histogram()
    times.add(10.0 + number)
    return wire.MetricReport(
        mono_ns=number, unix_ms=number, pipeline=pipeline, model="m", version="1.0.0", variant="v",
        period_s=10.0, frames=5, errors=1, labels={"person": 2}, infer_ms=times.to_wire(),
        sensors={"cpu_c": float(number)}, **extra,
    )  # fmt: skip


def everything(outbox: Outbox, after: Cursor | None = None) -> dict[int, wire.Record]:
    """Send all there is, as the fleet would see it: by sequence number, gaps left out."""
    cursor = after or Cursor(0, 0)
    found: dict[int, wire.Record] = {}
    for parcel in outbox.batches(cursor, 10_000):
        sent = wire.decode(wire.encode(parcel.batch), wire.Batch)
        assert sent.boot == outbox.boot
        assert parcel.last == sent.seq0 + len(sent.items) - 1
        found |= dict(enumerate(sent.items, sent.seq0))
    return found


def covered(found: dict[int, wire.Record]) -> set[int]:
    """Every number that the fleet would count as received."""
    numbers = set()
    for seq, item in found.items():
        numbers |= set(range(item.first, item.last + 1)) if isinstance(item, wire.Gap) else {seq}
    return numbers


@pytest.fixture
def box(tmp_path, clock):
    outbox = Outbox(tmp_path / "outbox.sqlite", clock, commit_delay_s=0)
    yield outbox
    outbox.close()


def test_events_are_sent_ahead_of_metrics_each_in_order(box):
    for number in (1, 2):
        box.put(metric(number))
    box.put(event(3))
    box.put(metric(4))
    parcels = box.batches(Cursor(0, 0), 10)
    assert [(p.leaf, p.batch.seq0, len(p.batch.items)) for p in parcels] == [
        ("ev", 3, 1), ("m", 1, 2), ("m", 4, 1),
    ]  # fmt: skip


def test_a_batch_is_bounded_in_items_and_bytes_and_so_is_their_number(box):
    for number in range(1, 451):
        box.put(metric(number))
    sizes = [len(p.batch.items) for p in box.batches(Cursor(0, 0), 10)]
    assert sizes == [200, 200, 50]
    assert [len(p.batch.items) for p in box.batches(Cursor(0, 0), 2)] == [200, 200]
    for number in range(451, 455):
        box.put(event(number, image=b"x" * 200_000))
    assert [len(p.batch.items) for p in box.batches(Cursor(0, 450), 10)] == [1, 1, 1, 1]


def test_only_the_watermark_frees_a_message(box):
    for number in range(1, 6):
        box.put(event(number))
    box.batches(Cursor(0, 0), 10)
    assert box.state().rows == 5
    assert box.acknowledge(box.boot, 3)
    assert box.state().rows == 2
    assert sorted(everything(box)) == [4, 5]


@pytest.mark.parametrize("watermark", [-1, 6, 2**63])
def test_an_impossible_watermark_frees_nothing(box, watermark):
    for number in range(1, 6):
        box.put(event(number))
    assert not box.acknowledge(box.boot, watermark)
    assert not box.acknowledge("1-another", 3)
    assert box.state().rows == 5
    assert box.counters["bad_acks"] == 2


def test_numbers_go_on_after_everything_was_acknowledged_and_the_process_began_again(tmp_path, clock):
    path = tmp_path / "outbox.sqlite"
    first = Outbox(path, clock, commit_delay_s=0)
    first.put(event(1))
    first.put(event(2))
    first.acknowledge(first.boot, 2)
    first.close()
    second = Outbox(path, clock, commit_delay_s=0)
    second.put(event(3))
    assert second.boot == first.boot
    assert sorted(everything(second)) == [3]
    second.close()


def test_each_batch_says_the_lowest_number_that_can_still_be_sent(box):
    """A fleet that was restored from a backup waits for nothing below it."""
    for number in range(1, 5):
        box.put(event(number))
    box.acknowledge(box.boot, 2)
    box.put(metric(5))
    assert {p.batch.seq0: p.batch.lowest for p in box.batches(Cursor(0, 0), 10)} == {3: 3, 5: 3}


def test_messages_that_waited_for_the_link_are_marked_historical(box):
    box.put(event(1))
    box.put(metric(2))
    before = box.last_seq
    box.put(event(3))
    parcels = box.batches(Cursor(0, 0), 10, live_after=before)
    assert {p.batch.seq0: p.batch.historical for p in parcels} == {1: True, 2: True, 3: False}


def test_over_quota_metrics_are_merged_before_anything_is_dropped(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, Quota(rows=40), commit_delay_s=0)
    for number in range(1, 61):
        outbox.put(metric(number, pipeline=f"p{number % 2}"))
    found = everything(outbox)
    reports = [r for r in found.values() if isinstance(r, wire.MetricReport)]
    assert outbox.counters["dropped"] == 0
    assert outbox.counters["merged"] == 60 - len(reports)
    assert sum(r.frames for r in reports) == 60 * 5
    assert sum(r.period_s for r in reports) == 600.0
    assert sum(r.labels["person"] for r in reports) == 120
    assert sum(Histogram.from_wire(r.infer_ms).count for r in reports) == 60
    assert covered(found) == set(range(1, 61))
    outbox.close()


def test_metrics_that_may_have_been_counted_at_the_fleet_are_not_merged(tmp_path, clock):
    """Merging a report that was sent into one that was not would count it twice."""
    outbox = Outbox(tmp_path / "o", clock, Quota(rows=20), commit_delay_s=0)
    for number in range(1, 21):
        outbox.put(metric(number))
    sent = everything(outbox)
    for number in range(21, 41):
        outbox.put(metric(number))
    later = everything(outbox)
    received = {**later, **sent}  # the fleet keeps what it had first
    reports = [r for r in received.values() if isinstance(r, wire.MetricReport)]
    assert sum(r.frames for r in reports) == 40 * 5 - 5 * outbox.counters["dropped"] + 5 * len(
        set(sent) - {seq for seq, r in later.items() if isinstance(r, wire.MetricReport)}
    )
    outbox.close()


def test_the_least_important_and_oldest_goes_first_and_leaves_a_gap(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, Quota(rows=20), commit_delay_s=0)
    for number in range(1, 16):
        outbox.put(event(number))
    for _ in range(16, 31):
        outbox.put(wire.Alert(mono_ns=0, unix_ms=0, level="info", code="x", message="m"))
    found = everything(outbox)
    kinds = [type(found[seq]).__name__ for seq in sorted(found)]
    assert kinds.count("Alert") == 15
    assert outbox.counters["dropped"] == 15 - kinds.count("EventRecord") > 0
    assert covered(found) == set(range(1, 31))
    assert max(seq for seq, r in found.items() if isinstance(r, wire.EventRecord)) == 15
    outbox.close()


def test_age_counts_running_time_so_a_jump_of_the_wall_clock_drops_nothing(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, Quota(age_s=100), commit_delay_s=0)
    clock.wall_ms = 0
    outbox.put(event(1))
    clock.wall_ms = 1_800_000_000_000
    outbox.put(event(2))
    assert sorted(everything(outbox)) == [1, 2]
    clock.advance(101)
    outbox.put(event(3))
    found = everything(outbox)
    assert found[2] == wire.Gap(mono_ns=0, unix_ms=0, first=1, last=2)
    assert found[3] == event(3)
    outbox.close()


def test_age_goes_on_where_the_process_before_left_it(tmp_path, clock):
    quota = Quota(age_s=100)
    first = Outbox(tmp_path / "o", clock, quota, commit_delay_s=0)
    first.put(event(1))
    clock.advance(60)
    first.close()
    clock.now_ns = 5  # another boot of the machine
    second = Outbox(tmp_path / "o", clock, quota, commit_delay_s=0)
    clock.advance(60)
    second.put(event(2))
    assert second.counters["dropped"] == 1
    second.close()


def test_the_thread_commits_within_its_delay_and_wakes_the_link(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, commit_delay_s=0.01)
    woken = threading.Event()
    outbox.subscribe(woken.set)
    outbox.put(event(1))
    assert woken.wait(5)
    assert outbox.last_seq == 1
    outbox.close()
    outbox.close()
    assert not any(t.name == "outbox-commit" for t in threading.enumerate())


def test_many_threads_put_and_nothing_is_lost(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, commit_delay_s=0.001)
    threads = [
        threading.Thread(target=lambda base=base: [outbox.put(event(base + i)) for i in range(200)])
        for base in (1000, 2000, 3000, 4000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.flush()
    assert len({r.label for r in everything(outbox).values()}) == 800
    outbox.close()


# -- failing disks


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "empty_wal", "truncated"])
def test_a_damaged_file_is_moved_aside_and_a_new_life_begins(tmp_path, clock, damage):
    path = tmp_path / "o"
    outbox = Outbox(path, clock, commit_delay_s=0)
    for number in range(200):
        outbox.put(event(number, image=b"x" * 500))
    boot = outbox.boot
    outbox.close()
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data[:] = os.urandom(len(data))
    elif damage == "header":
        data[:16] = b"not a database!!"
    elif damage == "middle":
        data[8192:40_000] = os.urandom(40_000 - 8192)
    elif damage == "truncated":
        del data[len(data) // 2 :]
    path.write_bytes(data)
    again = Outbox(path, clock, commit_delay_s=0)
    if damage == "empty_wal":
        assert again.boot == boot
    else:
        again.put(event(7))
        found = everything(again)
        assert again.boot != boot
        assert again.boot.split("-")[0] == "2"
        assert isinstance(found[1], wire.Alert)
        assert found[2] == event(7)
        assert again.counters["resets"] == 1
        assert path.with_name("o.damaged").exists()
    again.close()


def test_a_file_that_breaks_while_open_costs_what_it_held_and_nothing_else(tmp_path, clock):
    path = tmp_path / "o"
    outbox = Outbox(path, clock, commit_delay_s=0)
    for number in range(2000):  # more than the page cache holds
        outbox.put(event(number, image=b"x" * 1000))
    outbox._file.shrink()
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    for number in range(3000, 3100):
        outbox.put(event(number))
        outbox.batches(Cursor(0, 0), 100)
    assert outbox.counters["resets"] >= 1
    assert event(3099) in everything(outbox).values()
    outbox.close()


def test_a_full_file_keeps_the_important_and_counts_the_rest(tmp_path, clock):
    """``max_page_count`` makes SQLite say SQLITE_FULL, as a full disk does."""
    outbox = Outbox(tmp_path / "o", clock, Quota(bytes=10 << 20), commit_delay_s=0)
    outbox._file._db.execute("PRAGMA max_page_count=64")
    for number in range(400):
        outbox.put(event(number, image=b"x" * 2000))
    update = wire.UpdateRecord(
        mono_ns=1, unix_ms=1, model="m", version="1.0.0", state="IDLE", event="COMMITTED"
    )
    outbox.put(update)
    found = everything(outbox)
    assert outbox.counters["storage_errors"] > 0
    assert update in found.values()
    kept = sum(isinstance(r, wire.EventRecord) for r in found.values())
    assert kept + outbox.counters["dropped"] == 400
    assert kept > 50
    outbox.close()


def test_a_full_file_loses_nothing_for_what_is_less_important_or_cannot_be_stored(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, Quota(bytes=10 << 20), commit_delay_s=0)
    outbox._file._db.execute("PRAGMA max_page_count=64")
    while not outbox.counters["storage_errors"]:
        outbox.put(event(outbox.counters["put"], image=b"x" * 2000))
    before = [item for item in everything(outbox).values() if isinstance(item, wire.EventRecord)]
    dropped = outbox.counters["dropped"]
    for number in range(20):
        outbox.put(metric(number))
    outbox.put(event(1000, image=b"x" * 300_000))  # more than the whole file
    for _ in range(20):
        assert not outbox.flush()
    left = everything(outbox).values()
    assert [item for item in before if item not in left] == []
    assert outbox.counters["dropped"] == dropped
    outbox.close()


_LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from tests_support import event, RealClock
from edgekit.sync.outbox import Cursor, Outbox
outbox = Outbox(Path(sys.argv[1]), RealClock(), commit_delay_s=0)
for number in range(10):
    outbox.put(event(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for number in range(10, 400):
    outbox.put(event(number))
assert outbox.counters["storage_errors"] > 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
outbox.put(event(400))
labels = {wire_item["label"] for p in outbox.batches(Cursor(0, 0), 99) for item in p.batch.items
          for wire_item in [__import__("msgspec").msgpack.decode(item)] if wire_item["type"] == "event"}
assert {f"e{n}" for n in range(10)} | {"e400", "e399"} <= labels, sorted(labels)
print(len(labels) + outbox.counters["dropped"])
"""


def run_child(tmp_path: Path, program: str, *args: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tests_support.py").write_text(
        textwrap.dedent("""
        import time
        from edgekit.core import wire
        class RealClock:
            def monotonic_ns(self): return time.monotonic_ns()
            def unix_ms(self): return time.time_ns() // 1_000_000
        def event(n, **extra):
            return wire.EventRecord(mono_ns=n, unix_ms=n, pipeline="door", model="m", version="1.0.0",
                                    kind="appear", label=f"e{n}", **extra)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip


def test_a_disk_that_refuses_writes_is_outlived(tmp_path):
    done = run_child(tmp_path, _LIMITED, str(tmp_path / "o"))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 401


def test_on_a_file_that_cannot_be_made_messages_live_in_memory(tmp_path, clock):
    (tmp_path / "o").mkdir()
    outbox = Outbox(tmp_path / "o", clock, commit_delay_s=0)
    outbox.put(event(5))
    assert [type(r).__name__ for r in everything(outbox).values()] == ["Alert", "EventRecord"]
    outbox.close()


def test_a_second_process_is_told_that_the_outbox_is_taken(tmp_path, clock, box):
    with pytest.raises(StorageError, match="open in another process"):
        Outbox(tmp_path / "outbox.sqlite", clock)


def test_synchronous_is_full(box):
    assert box._file._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert box._file._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


# -- kill -9

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests_support import event, RealClock
from edgekit.sync.outbox import Cursor, Outbox
path, start, die_at, delay = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
outbox = Outbox(path, RealClock(), commit_delay_s=delay)
print("boot", outbox.boot, flush=True)
calls = 0
def trace(statement):
    global calls
    calls += 1
    if calls == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
outbox._file._db.set_trace_callback(trace)
for n in range(start, start + 30):
    outbox.put(event(n))
    if n % 3 == 0 and outbox.flush():
        print("durable", n, flush=True)
    if n % 10 == 0:
        outbox.batches(Cursor(0, 0), 5)
        outbox.acknowledge(outbox.boot, max(0, outbox.last_seq - 20))
        print("acked", max(0, outbox.last_seq - 20), flush=True)
print("end", flush=True)
"""


@pytest.mark.parametrize("delay", ["0", "0.002"])
def test_whatever_statement_the_process_is_killed_at_nothing_committed_is_lost(tmp_path, clock, delay):
    """Dies at ever later SQL statements; each run goes on with the file of the run before."""
    path = tmp_path / "o"
    start, durable, boots, ended = 1, set(), set(), False
    for die_at in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 10_000):
        done = run_child(tmp_path, _KILLED, str(path), str(start), str(die_at), delay)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        for word, value in (line.split() for line in done.stdout.splitlines() if " " in line):
            if word == "durable":
                durable |= set(range(start, int(value) + 1))
            elif word == "boot":
                boots.add(value)
        ended = "end" in done.stdout
        start += 30
    assert ended
    outbox = Outbox(path, clock, commit_delay_s=0)
    found = everything(outbox)
    assert boots == {outbox.boot}
    numbers = sorted(found)
    assert numbers == list(range(outbox.watermark + 1, outbox.last_seq + 1))
    labels = [int(r.label[1:]) for _, r in sorted(found.items())]
    assert labels == sorted(labels)
    oldest = labels[0]
    assert {n for n in durable if n >= oldest} <= set(labels)
    outbox.close()


# -- messages that are put again after a kill


def test_a_message_that_is_put_again_is_there_once_also_when_the_fleet_has_it(tmp_path, clock):
    outbox = Outbox(tmp_path / "o", clock, commit_delay_s=0)
    outbox.put(event(1), key="a")
    outbox.put(event(2), key="b")
    assert outbox.acknowledge(outbox.boot, 1)
    outbox.close()
    again, kept = Outbox(tmp_path / "o", clock, commit_delay_s=0), []
    for key in ("a", "b", "c"):
        again.put(event(3), key=key, is_again=True, on_kept=lambda key=key: kept.append(key))
    again.put(event(4), key="b")  # not again: another start from the beginning
    labels = [record.label for record in everything(again).values() if isinstance(record, wire.EventRecord)]
    assert (labels, kept) == (["e2", "e3", "e4"], ["a", "b", "c"])
    again.close()


def test_a_message_is_kept_once_it_is_on_disk(tmp_path, clock):
    outbox, kept = Outbox(tmp_path / "o", clock, commit_delay_s=3600), []
    outbox.put(event(1), key="a", on_kept=lambda: kept.append(1))
    outbox.put(event(1), key="a", is_again=True, on_kept=lambda: kept.append(2))  # waits for the first
    assert kept == []
    assert outbox.flush()
    assert kept == [1, 2]
    outbox.put(event(3, text="x" * (600 << 10)), on_kept=lambda: kept.append(3))  # too large to be put
    assert kept == [1, 2, 3]
    outbox.close()


def test_the_keys_of_messages_are_bounded(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("edgekit.sync.store.MOST_KEYS", 3)
    outbox = Outbox(tmp_path / "o", clock, commit_delay_s=0)
    for number in range(10):
        outbox.put(event(number), key=str(number))
    for number in (7, 6):
        outbox.put(event(20 + number), key=str(number), is_again=True)
    labels = [record.label for record in everything(outbox).values()]
    assert labels[10:] == ["e26"]
    outbox.close()
