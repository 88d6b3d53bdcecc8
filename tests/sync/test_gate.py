from __future__ import annotations

import itertools
import os
import sqlite3

import msgspec
import pytest
from conftest_sync import memory_path  # noqa: F401 - tmp_path, in memory

from edgekit.core import wire
from edgekit.core.errors import ConfigError
from edgekit.sync.gate import CLASSES, Gate
from edgekit.sync.ledger import Entry, Ledger

FULL = wire.EventRecord(
    mono_ns=1, unix_ms=2, pipeline="door", model="m", version="1.0.0", kind="appear", label="person",
    score=0.9, count=3, box=(1.0, 2.0, 3.0, 4.0), value=7.5, image=b"\xff\xd8 a picture",
)  # fmt: skip
NEEDS = {"score": "scores", "count": "counts", "box": "boxes", "value": "values", "image": "pixels"}


@pytest.fixture
def ledger(tmp_path, clock):
    found = Ledger(tmp_path / "ledger.sqlite", clock)
    yield found
    found.close()


@pytest.mark.parametrize("number", range(len(CLASSES) + 1))
def test_a_field_leaves_exactly_when_its_class_is_allowed(ledger, number):
    """Every subset of the classes."""
    for allowed in map(frozenset, itertools.combinations(sorted(CLASSES), number)):
        passed = Gate(allowed, ledger).check(FULL)
        if not allowed & {"labels", "counts"}:
            assert passed is None
            continue
        for field, kind in NEEDS.items():
            assert (getattr(passed, field) == getattr(FULL, field)) == (kind in allowed), (field, allowed)


def test_every_field_of_an_event_is_known_to_the_gate():
    """A field that somebody adds to the message must be given a class first."""
    harmless = {"mono_ns", "unix_ms", "pipeline", "model", "version", "kind", "label"}
    assert set(wire.EventRecord.__struct_fields__) == harmless | set(NEEDS)


def test_a_metric_report_loses_what_was_seen_and_keeps_how_it_went(ledger):
    report = wire.MetricReport(
        mono_ns=1, unix_ms=2, pipeline="door", model="m", version="1.0.0", variant="v", period_s=1, frames=5,
        labels={"person": 4},
    )  # fmt: skip
    assert Gate(frozenset({"boxes"}), ledger).check(report) == msgspec.structs.replace(report, labels={})
    assert Gate(frozenset({"counts"}), ledger).check(report) == report


@pytest.mark.parametrize(
    "record",
    [
        wire.Alert(mono_ns=1, unix_ms=1, level="error", code="x", message="m"),
        wire.UpdateRecord(mono_ns=1, unix_ms=1, model="m", version="1.0.0", state="IDLE", event="COMMITTED"),
        wire.CommandAnswer(mono_ns=1, unix_ms=1, id="7", ok=True),
    ],
)
def test_what_says_nothing_of_the_world_always_passes(ledger, record):
    assert Gate(frozenset(), ledger).check(record) is record


def test_an_unknown_class_is_refused_at_the_start(ledger):
    with pytest.raises(ConfigError, match="pixel "):
        Gate(frozenset({"pixel"}), ledger)


def test_the_ledger_says_what_left_and_what_did_not(ledger, clock):
    gate = Gate(frozenset({"counts", "boxes"}), ledger)
    for _ in range(10):
        gate.check(FULL)
    hour = clock.unix_ms() // 1000 // 3600 * 3600
    assert ledger.entries() == [
        Entry(hour, "door", "boxes", "fleet", "passed", 10, 320),
        Entry(hour, "door", "counts", "fleet", "passed", 10, 80),
        Entry(hour, "door", "labels", "fleet", "passed", 10, 60),
        Entry(hour, "door", "pixels", "fleet", "refused", 10, 10 * len(FULL.image)),
        Entry(hour, "door", "scores", "fleet", "refused", 10, 80),
        Entry(hour, "door", "values", "fleet", "refused", 10, 80),
    ]


def test_the_ledger_writes_once_in_a_minute_however_much_happens(tmp_path, clock):
    path = tmp_path / "l"
    ledger = Ledger(path, clock, flush_s=60)
    for _ in range(1000):
        ledger.add("p", "counts", "fleet", "passed", 8)
        clock.advance(0.01)
    assert not path.exists()
    clock.advance(60)
    ledger.add("p", "counts", "fleet", "passed", 8)
    assert path.exists()
    ledger.close()
    again = Ledger(path, clock)
    assert sum(e.count for e in again.entries()) == 1001
    assert again.entries(since_unix_s=clock.unix_ms() // 1000 + 7200) == []
    again.close()


def test_the_ledger_is_bounded_and_keeps_sums_when_hours_become_days(tmp_path, clock):
    ledger = Ledger(tmp_path / "l", clock, max_rows=40, flush_s=0)
    for _ in range(200):
        ledger.add("p", "counts", "fleet", "passed", 1)
        clock.advance(3600)
    found = ledger.entries()
    assert len(found) <= 40
    assert sum(e.count for e in found) == 200
    for _ in range(24 * 60):
        ledger.add("p", "counts", "fleet", "passed", 1)
        clock.advance(3600)
    assert len(ledger.entries()) <= 40
    assert ledger.counters["lost"] > 0
    ledger.close()


def test_a_damaged_ledger_is_moved_aside_and_goes_on(tmp_path, clock):
    path = tmp_path / "l"
    path.write_bytes(os.urandom(20_000))
    ledger = Ledger(path, clock)
    ledger.add("p", "counts", "fleet", "passed", 1)
    ledger.flush()
    assert [e.count for e in ledger.entries()] == [1]
    assert ledger.counters["resets"] == 1
    ledger.close()


def test_a_damaged_ledger_leaves_no_connection_open(tmp_path, clock, monkeypatch):
    opened, connect = [], sqlite3.connect

    def remembered(*arguments, **named):
        opened.append(connect(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)
    (tmp_path / "l").write_bytes(os.urandom(20_000))
    ledger = Ledger(tmp_path / "l", clock)
    ledger.add("p", "counts", "fleet", "passed", 1)
    ledger.flush()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    ledger.close()


def test_a_ledger_without_a_disk_counts_its_errors_and_does_not_raise(tmp_path, clock):
    (tmp_path / "file").write_text("in the way")
    ledger = Ledger(tmp_path / "file" / "l", clock, flush_s=0)
    ledger.add("p", "counts", "fleet", "passed", 1)
    assert ledger.counters["storage_errors"] == 1
    assert [e.count for e in ledger.entries()] == [1]
    ledger.close()
