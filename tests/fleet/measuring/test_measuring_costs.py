"""Costs are medians over devices, kept for each kind of board, library version and thread count."""

import contextlib
import math

import msgspec
import pytest

from edgekit.core import wire
from edgekit_fleet.measuring import costs
from edgekit_fleet.measuring.costs import Costs
from edgekit_fleet.store import costs as rows
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.metrics import Event
from edgekit_fleet.ui.happenings import happening

A, B = "a" * 64, "b" * 64
PI = wire.Board(profile="rpi5", board="Raspberry Pi 5")


def variant(content=A, p50=5.0, **more):
    about = {"id": "int8", "backend": "litert", "accelerator": "cpu", "precision": "int8", "p95_ms": p50 + 1}
    about |= {"p99_ms": p50 + 2, "rss_mb": 40.0, "load_ms": 10.0, "first_ms": 8.0, "backend_version": "2.1"}
    return wire.MeasuredVariant(**{**about, "content": content, "p50_ms": p50, **more})


def record(*variants, board=PI, threads=4, model="motion", version="1.0.0", **more):
    about = {"mono_ns": 1, "unix_ms": 1, "origin": "bench", "seconds": 1.0, "board": board}
    return wire.MeasurementRecord(
        **about, variants=variants, threads=threads, model=model, version=version, **more
    )


class Shelf:
    def __init__(self, database):
        self.database, self.costs = database, Costs(database)

    def keep(self, device, found, at_ms=1000):
        with self.database.transaction() as sql:
            return costs.keep(sql, device, found, at_ms)

    def all(self, **about):
        return self.costs.page(**about)


@pytest.fixture
def shelf():
    with contextlib.closing(Database(":memory:")) as database:
        yield Shelf(database)


def test_a_figure_is_the_median_over_devices_and_each_counts_once(shelf):
    for device, p50 in (("d1", 4.0), ("d2", 90.0), ("d3", 5.0)):
        shelf.keep(device, record(variant(p50=p50)))
    shelf.keep("d1", record(variant(p50=6.0)), at_ms=2000)
    (found,) = shelf.all()
    assert (found.p50_ms, found.devices, found.measured_unix_ms) == (6.0, 3, 2000)
    assert found.names == [{"model": "motion", "version": "1.0.0", "variant": "int8"}]


def test_a_report_that_waited_long_does_not_displace_a_newer_one(shelf):
    shelf.keep("d1", record(variant(p50=5.0)), at_ms=2000)
    shelf.keep("d1", record(variant(p50=9.0)), at_ms=1000)
    assert shelf.all()[0].p50_ms == 5.0


@pytest.mark.parametrize(
    "other",
    [
        record(variant(content=B)),
        record(variant(backend_version="2.2")),
        record(variant(accelerator="edgetpu")),
        record(variant(), threads=1),
        record(variant(), board=wire.Board(profile="rpi4", board="Raspberry Pi 5")),
        record(variant(), board=wire.Board(profile="rpi5", board="Compute Module 5")),
    ],
)
def test_what_is_not_the_same_is_not_merged(shelf, other):
    shelf.keep("d1", record(variant()))
    shelf.keep("d2", other)
    assert [one.devices for one in shelf.all()] == [1, 1]


def test_the_same_file_under_another_name_is_the_same(shelf):
    shelf.keep("d1", record(variant()))
    shelf.keep("d2", record(variant(id="renamed"), model="other", version="2.0.0"))
    (found,) = shelf.all(model="motion", version="1.0.0", profile="rpi5", contents=[A])
    assert found.devices == 2
    assert shelf.all(model="other", version="1.0.0") == []
    assert shelf.all(contents=[B]) == shelf.all(profile="rpi4") == []


@pytest.mark.parametrize(
    "bad",
    [
        record(variant(error="it crashed")),
        record(variant(p50_ms=None)),
        record(variant(golden_ok=False)),
        record(variant(p50=math.nan)),
        record(variant(p50=math.inf)),
        record(variant(rss_mb=-1.0)),
        record(variant(content="../../x")),
        record(variant(), threads=0),
        record(variant(), board=None),
        record(variant(), state="failed"),
    ],
)
def test_what_did_not_run_rightly_has_no_cost(shelf, bad):
    assert shelf.keep("d1", bad) == 0
    assert shelf.all() == []


def test_a_device_that_fills_the_table_loses_its_own_oldest_only(shelf, monkeypatch):
    monkeypatch.setattr(rows, "MAX_PER_DEVICE", 3)
    shelf.keep("honest", record(variant()))
    for n in range(6):
        shelf.keep("flood", record(variant(content=f"{n:064x}"), model=f"m{n}"), at_ms=n)
    assert {one.content for one in shelf.all()} == {A, *(f"{n:064x}" for n in (3, 4, 5))}
    assert shelf.all(model="m0") == []
    for n in range(50):
        shelf.keep("flood", record(variant(), model=f"name{n}"))
    assert len(shelf.all(contents=[A])[0].names) == rows.MAX_NAMES


def test_pages_follow_one_another(shelf):
    for n in range(5):
        shelf.keep("d1", record(variant(content=f"{n:064x}")))
    first = shelf.all(limit=3)
    rest = shelf.all(limit=3, before=first[-1].number)
    assert [int(one.content, 16) for one in first + rest] == [4, 3, 2, 1, 0]


def test_a_record_survives_its_way_through_the_outboxs_codec():
    found = record(variant(golden_ok=True, golden_difference=0.5), job="m-1", sensors={"temperature_c": 40.0})
    assert wire.decode_record(wire.encode_record(found)) == found
    assert msgspec.convert(msgspec.to_builtins(found), type=wire.MeasurementRecord) == found


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (record(variant(p50=5.25)), ("info", "motion 1.0.0: measured", "int8 5.25 ms")),
        (record(variant(p50_ms=None)), ("info", "motion 1.0.0: measured", "")),
        (
            record(state="postponed", reason="too hot", job="m-1"),
            ("info", "motion 1.0.0: measuring postponed", "too hot"),
        ),
        (
            record(state="failed", reason="not signed", model="", version="", job="m-1"),
            ("error", "m-1: measuring failed", "not signed"),
        ),
    ],
)
def test_an_operator_reads_it_in_one_line(found, shown):
    one = happening(Event(1, "cam-1", 1000, "measurement", msgspec.to_builtins(found)))
    assert (one.level, one.title, one.detail) == shown
