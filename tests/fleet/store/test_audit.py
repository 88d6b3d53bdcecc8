"""The audit log: one entry for each change, in a chain that shows what was changed in it."""

import contextlib
import dataclasses

import pytest

from edgekit.core.errors import StorageError
from edgekit_fleet.store.audit import FIRST, FLEET, MAX_BYTES, Actor, Audit, first_broken
from edgekit_fleet.store.database import Database

ANN = Actor("operator 1a2b, Ann", "192.0.2.7")


@pytest.fixture
def database(tmp_path):
    with contextlib.closing(Database(tmp_path / "fleet.sqlite")) as opened:
        yield opened


@pytest.fixture
def audit(database):
    made = Audit(database)
    for number in range(5):
        made.record(ANN, "rollout.pause", f"r-{number}", before="running", after={"state": "paused"})
    return made


def test_an_entry_says_who_from_where_what_before_and_after(audit):
    (entry,) = audit.page(subject="r-3")
    assert (entry.number, entry.who, entry.origin) == (4, "operator 1a2b, Ann", "192.0.2.7")
    assert (entry.action, entry.before, entry.after) == ("rollout.pause", "running", {"state": "paused"})


def test_pages_go_from_the_newest_to_the_oldest_and_the_export_the_other_way(audit):
    assert [entry.number for entry in audit.page(limit=2)] == [5, 4]
    assert [entry.number for entry in audit.page(limit=2, before=4)] == [3, 2]
    assert [entry.number for entry in audit.after(2, 10)] == [3, 4, 5]


def test_a_whole_log_follows_entry_by_entry(audit):
    assert first_broken(audit.after(0, 100)) is None
    assert first_broken([]) is None
    assert audit.after(0, 1)[0].hash != FIRST


@pytest.mark.parametrize(
    "tamper",
    [
        lambda log: [*log[:2], dataclasses.replace(log[2], who="somebody else"), *log[3:]],
        lambda log: [*log[:2], dataclasses.replace(log[2], after={"state": "aborted"}), *log[3:]],
        lambda log: [*log[:2], *log[3:]],
        lambda log: [*log[:2], log[3], log[2], log[4]],
        lambda log: [*log[:3], log[2], *log[3:]],
    ],
    ids=["another actor", "another content", "one removed", "two exchanged", "one inserted"],
)
def test_a_log_that_was_tampered_with_is_found_out(audit, tamper):
    assert first_broken(tamper(audit.after(0, 100))) in (3, 4)


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_the_database_refuses_to_change_or_delete_entries(audit, database, statement):
    with pytest.raises(Exception, match="append-only"), database.transaction() as sql:
        sql.execute(statement)
    assert audit.count() == 5


def test_a_change_that_fails_leaves_no_entry(audit, database):
    def change():
        with database.transaction() as sql:
            audit.record(FLEET, "device.revoke", "cam-1")
            sql.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StorageError):
        change()
    assert audit.count() == 5


def test_of_a_long_document_the_log_keeps_size_and_hash(audit):
    audit.record(ANN, "rollout.create", "r-9", after={"devices": ["x" * 50] * 1000})
    (entry,) = audit.page(subject="r-9")
    assert entry.after["bytes"] > MAX_BYTES
    assert len(entry.after["sha256"]) == 64
    assert first_broken(audit.after(0, 100)) is None
