"""The process that carries out a job, and reports that wait for an agent: with real children."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from bundles import make_bundle

from edgekit.agent.children import MeasureTask, MeasuringChild, measure
from edgekit.agent.measuring.job import needed_mb, together
from edgekit.bench import reports
from edgekit.bench.reports import leave_report, take_reports
from edgekit.core import wire
from edgekit.core.errors import BackendError, BundleError
from edgekit.core.spec import Requires, Variant, VariantFile, variant_hash
from edgekit.model.bundle import open_bundle
from edgekit.model.costs import load_costs
from edgekit.update.slots import SIGNED


@pytest.fixture(scope="module")
def cache(proved_cache):
    return str(proved_cache())


@pytest.fixture(autouse=True)
def _same_cache(cache, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)


def staged(folder, *, signed=(), **about):
    """A bundle as slots stage it: reduced to what was brought, beside what was signed."""
    bundle = make_bundle(folder / "bundle", **about)
    whole = make_bundle(folder / "signed", **{**about, "more_variants": signed})
    (bundle / SIGNED).write_bytes((whole / "bundle.json").read_bytes())
    return bundle


def child(bundle, **more):
    task = MeasureTask(bundle=str(bundle), sha256="ab" * 32, job="m-1", threads=1, seconds=0.25, **more)
    return MeasuringChild(task, dict(os.environ))


def group_of(leader):
    """Return the live processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[2]) == leader and words[0] != "Z":
            found.append(int(path.name))
    return found


def until(claim):
    deadline_s = time.monotonic() + 120
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_job_gives_figures_proofs_and_the_board_and_keeps_nothing_here(tmp_path):
    absent = {"id": "absent", "backend": "null"}
    bundle = staged(tmp_path, signed=(absent,), golden=(0.5, 0.5))
    record = child(bundle, rejected={"absent": "has no room"}).run(150)
    first, second = record.variants
    assert (record.origin, record.job, record.threads, record.state) == ("job", "m-1", 1, "done")
    assert record.bundle_sha256 == "ab" * 32
    assert record.board.cores >= 1
    assert record.sensors["load_before"] >= 0
    assert (first.id, first.golden_ok, first.golden_difference) == ("null", False, pytest.approx(0.4))
    assert first.p50_ms <= first.p95_ms <= first.p99_ms
    assert first.content == variant_hash(open_bundle(bundle).manifest.variants[0])
    assert (second.id, second.error, second.p50_ms) == ("absent", "has no room", None)
    assert load_costs() == {}


def test_a_variant_that_kills_its_process_costs_only_its_own_row(tmp_path):
    crash = {"id": "crash", "backend": "null", "options": {"crash_at": 8}}
    bundle = staged(tmp_path, more_variants=(crash,))
    rows = {row.id: row for row in child(bundle).run(150).variants}
    assert rows["null"].error is None
    assert rows["crash"].p50_ms is None
    assert "crash" in rows["crash"].error


def test_what_is_no_bundle_fails_with_its_class(tmp_path):
    with pytest.raises(BundleError):
        child(tmp_path / "nothing").run(150)


@pytest.mark.parametrize("how", ["killed", "left"])
def test_it_ends_with_all_its_processes(tmp_path, how):
    """Killed by its agent, or left by an agent that was killed."""
    started = child(staged(tmp_path, options={"load_ms": 300_000}))
    leader = started._child.pid
    failed = []

    def run():
        try:
            started.run(150)
        except BackendError as error:
            failed.append(error.message)

    waiting = threading.Thread(target=run)
    waiting.start()
    until(lambda: len(group_of(leader)) >= 2)  # itself, and a variant that loads
    if how == "killed":
        started.kill()
    else:
        started._child._requests.close()  # as the kernel does for an agent that was killed
    waiting.join(120)
    until(lambda: group_of(leader) == [])
    assert failed == ["measuring ended without a result (killed by SIGKILL)"]


def test_time_bounds_it(tmp_path):
    with pytest.raises(BackendError, match="not done within"):
        child(staged(tmp_path, options={"load_ms": 300_000})).run(0.2)


# -- memory


def variant(name, size_mb=0, need_mb=0):
    file = VariantFile(path=f"{name}.bin", bytes=int(size_mb * 1e6), sha256="0" * 64)
    return Variant(id=name, backend="litert", files=(file,), requires=Requires(memory_mb=need_mb))


@pytest.mark.parametrize(
    ("free_mb", "groups", "too_large"),
    [
        (0, [["a", "b", "c", "d"]], []),
        (4000, [["a", "b", "c", "d"]], []),
        (1000, [["a", "b", "c"], ["d"]], []),
        (700, [["a", "b"], ["c"]], ["d"]),
        (130, [["a"]], ["b", "c", "d"]),
        (100, [], ["a", "b", "c", "d"]),
    ],
)
def test_no_more_is_loaded_at_once_than_half_of_the_free_memory_bears(free_mb, groups, too_large):
    variants = [variant("a"), variant("b", 10), variant("c", 50), variant("d", 1, need_mb=400)]
    found, reasons = together(variants, free_mb)
    assert [[one.id for one in group] for group in found] == groups
    assert list(reasons) == too_large
    assert all(sum(map(needed_mb, group)) <= free_mb / 2 for group in found if free_mb)


# -- reports that wait


def test_what_the_agent_measures_after_an_install_is_left_for_the_fleet_once(tmp_path):
    bundle, told = make_bundle(tmp_path / "b", options={"seed": 77}), []
    for _ in range(2):  # the second time everything is measured
        measure(bundle, dict(os.environ), tmp_path)
    assert take_reports(tmp_path, told.append, lambda: True) == 1
    assert (told[0].origin, told[0].model, [row.id for row in told[0].variants]) == (
        "install",
        "motion",
        ["null"],
    )
    assert take_reports(tmp_path, told.append, lambda: True) == 0


def record(number=1):
    return wire.MeasurementRecord(mono_ns=1, unix_ms=number, origin="bench")


def test_a_report_stays_until_it_is_durable_elsewhere(tmp_path):
    leave_report(tmp_path, record())
    told = []
    take_reports(tmp_path, told.append, lambda: False)
    assert len(reports.waiting(tmp_path)) == 1
    take_reports(tmp_path, told.append, lambda: True)
    assert told == [record(), record()]
    assert reports.waiting(tmp_path) == []


def test_reports_are_bounded_and_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "MAX_WAITING", 3)
    for number in range(5):
        leave_report(tmp_path, record(number))
    told = []
    take_reports(tmp_path, told.append, lambda: True)
    assert [one.unix_ms for one in told] == [2, 3, 4]


@pytest.mark.parametrize(
    "junk", [b"", b"junk", wire.encode_record(wire.Gap(mono_ns=1, unix_ms=1, first=1, last=2))]
)
def test_what_is_no_report_is_removed_and_not_sent(tmp_path, junk):
    path = leave_report(tmp_path, record())
    path.write_bytes(junk)
    told = []
    assert take_reports(tmp_path, told.append, lambda: True) == 0
    assert told == reports.waiting(tmp_path) == []
