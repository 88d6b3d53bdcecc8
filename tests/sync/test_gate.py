from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3

import msgspec
import pytest
from conftest_sync import memory_path  # noqa: F401 - tmp_path, in memory
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core import wire
from edgekit.core.egress import ENVELOPE, NAMES, class_of
from edgekit.core.errors import ConfigError
from edgekit.core.spec import Mask, Parent
from edgekit.sync.gate import Gate, enter_sent
from edgekit.sync.ledger import Ledger

FULL = wire.EventRecord(
    mono_ns=1, unix_ms=2, pipeline="door", model="m", version="1.0.0", kind="appear", label="person",
    score=0.9, count=3, total=4, box=(1.0, 2.0, 3.0, 4.0), value=7.5, image=b"\xff\xd8 a picture",
    oriented_box=(2.0, 3.0, 2.0, 2.0, 0.1), points=((1.0, 2.0),), point_names=("nose",), point_scores=(0.5,),
    mask=Mask(area=(0, 0, 2, 2), width=1, height=1, runs=(0, 1)), text="B-XY 12", vector=(0.5,), tracks=(7,),
    zone="door", parent=Parent(stage="people", item=0),
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path, clock):
    found = Ledger(tmp_path / "ledger.sqlite", clock)
    yield found
    found.close()


@pytest.mark.parametrize("number", range(len(NAMES) + 1))
def test_a_field_leaves_exactly_when_its_class_is_allowed(ledger, number):
    """Every subset of the classes."""
    fields = [field for field in FULL.__struct_fields__ if class_of(field) != ENVELOPE]
    for allowed in map(frozenset, itertools.combinations(NAMES, number)):
        passed = Gate("door", allowed, ledger).check(FULL)
        if not allowed:
            assert passed is None
            continue
        for field in fields:
            is_whole = getattr(passed, field) == getattr(FULL, field)
            assert is_whole == (class_of(field) in allowed or not getattr(FULL, field)), (field, allowed)


def test_a_metric_report_loses_what_was_seen_and_keeps_how_it_went(ledger):
    report = wire.MetricReport(
        mono_ns=1, unix_ms=2, pipeline="door", model="m", version="1.0.0", variant="v", period_s=1, frames=5,
        labels={"person": 4}, total=4,
    )  # fmt: skip
    bare = msgspec.structs.replace(report, labels={}, total=0)
    assert Gate("door", {"boxes"}, ledger).check(report) == bare
    assert Gate("door", {"counts"}, ledger).check(report) == msgspec.structs.replace(bare, total=4)
    assert Gate("door", {"counts", "labels"}, ledger).check(report) == report


@pytest.mark.parametrize(
    "record",
    [
        wire.Alert(mono_ns=1, unix_ms=1, level="error", code="x", message="m"),
        wire.UpdateRecord(mono_ns=1, unix_ms=1, model="m", version="1.0.0", state="IDLE", event="COMMITTED"),
        wire.CommandAnswer(mono_ns=1, unix_ms=1, id="7", ok=True),
    ],
)
def test_what_says_nothing_of_the_world_always_passes(ledger, record):
    assert Gate("", (), ledger).check(record) is record


def test_an_unknown_class_is_refused_at_the_start(ledger):
    with pytest.raises(ConfigError, match="pixel "):
        Gate("door", {"pixel"}, ledger)


def test_what_is_refused_is_recorded_at_the_gate_and_what_leaves_when_it_leaves(ledger):
    gate = Gate("door", {"counts", "boxes"}, ledger)
    passed = [gate.check(FULL) for _ in range(10)]
    found = {(e.data_class, e.decision): (e.pipeline, e.destination, e.count) for e in ledger.entries()}
    assert found == {
        (name, "refused"): ("door", "fleet", 10)
        for name in ("labels", "scores", "values", "points", "masks", "tracks", "text", "vectors", "pixels")
    }
    records = [wire.encode_record(record) for record in passed]
    body = wire.encode(wire.RawBatch(boot="b", seq0=1, items=[msgspec.Raw(record) for record in records]))
    enter_sent(ledger, body, records)
    left = {(e.pipeline, e.data_class): e.bytes for e in ledger.entries() if e.decision == "passed"}
    assert set(left) == {("door", "counts"), ("door", "boxes"), ("door", "envelope"), ("", "envelope")}
    assert sum(left.values()) == len(body)


def test_what_the_device_says_of_itself_is_in_the_ledger_to_the_byte(ledger):
    body = wire.encode(wire.Birth(online=True, boot="b", conn=1))
    enter_sent(ledger, body)
    assert [(e.data_class, e.bytes) for e in ledger.entries()] == [("health", len(body))]


def test_a_damaged_record_that_leaves_counts_too(ledger):
    enter_sent(ledger, b"xxrubbishyy", [b"rubbish"])
    assert {e.data_class: e.bytes for e in ledger.entries()} == {"unknown": 7, "envelope": 4}


@given(
    st.sets(st.sampled_from(NAMES), min_size=1),
    st.fixed_dictionaries({"pipeline": st.text(), "total": st.integers(0, 9)}, optional={"label": st.text()}),
    st.lists(st.fixed_dictionaries({"label": st.text()}, optional={"score": st.floats(0, 1)}), max_size=3),
)
def test_the_bytes_of_a_document_are_the_ledgers(egress, document, items):
    class Books:
        passed = 0

        def add(self, pipeline, data_class, destination, decision, size, count=1):
            assert size >= 0
            self.passed += size if decision == "passed" else 0

    books = Books()
    gate = Gate("p", egress, books, "host:1883")
    packed = gate.pack({**document, "items": items}, lambda kept: {"specversion": "1.0", "data": kept})
    assert books.passed == 0
    gate.enter(packed)
    assert books.passed == len(packed.payload)


def test_a_payload_of_one_class_leaves_whole_or_not_at_all(tmp_path, clock):
    ledger = Ledger(tmp_path / "l", clock)
    gate = Gate("p", ["labels"], ledger, "host:1883")
    assert gate.whole(b"picture", "pixels") is None
    gate.enter(gate.whole(b"online", "envelope"))
    assert [(e.data_class, e.decision, e.bytes) for e in ledger.entries()] == [
        ("envelope", "passed", 6),
        ("pixels", "refused", 7),
    ]
    assert Gate("p", [], ledger, "host:1883").whole(b"online", "envelope") is None
    ledger.close()


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


def test_what_the_device_says_of_itself_is_a_write_each_quarter_of_an_hour(tmp_path, clock):
    path = tmp_path / "l"
    ledger = Ledger(path, clock, flush_s=60)

    def stored():
        with contextlib.closing(sqlite3.connect(path)) as db:
            return db.execute("SELECT total(count) FROM ledger").fetchone()[0]

    ledger.flush()
    for minute in range(15):
        clock.advance(60)
        ledger.add("", "health", "fleet", "passed", 9)
        assert path.exists() == (minute == 14)
    assert stored() == 15
    ledger.add("door", "counts", "fleet", "passed", 9)
    clock.advance(60)
    ledger.add("", "health", "fleet", "passed", 9)
    assert stored() == 17, "what a pipeline saw waits a minute"
    ledger.close()


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
