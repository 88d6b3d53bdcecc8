"""The database: durable commits, one writer, numbered migrations, clear refusals."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading

import pytest

from edgekit.core.errors import ConfigError, StorageError
from edgekit_fleet.store.database import Database, open_database

TABLE = "CREATE TABLE shelf (title TEXT UNIQUE)"


@pytest.fixture
def database(tmp_path):
    found = Database(tmp_path / "a.sqlite")
    found.migrate("shelf", [TABLE])
    yield found
    found.close()


def titles(database):
    with database.read() as sql:
        return [row["title"] for row in sql.execute("SELECT title FROM shelf ORDER BY title")]


def test_a_migration_runs_once(database):
    database.migrate("shelf", [TABLE, "INSERT INTO shelf VALUES ('a'); INSERT INTO shelf VALUES (';b')"])
    database.migrate("shelf", [TABLE, "INSERT INTO shelf VALUES ('a'); INSERT INTO shelf VALUES (';b')"])
    assert titles(database) == [";b", "a"]


def test_a_migration_that_fails_leaves_nothing_behind(database):
    with pytest.raises(StorageError):
        database.migrate("shelf", [TABLE, "INSERT INTO shelf VALUES ('a'); INSERT INTO nowhere VALUES (1)"])
    assert titles(database) == []


def test_a_database_of_a_newer_version_is_refused(database):
    with pytest.raises(ConfigError, match="step 1, this version knows 0"):
        database.migrate("shelf", [])


def test_a_transaction_is_whole_or_nothing(database):
    def fail():
        with database.transaction() as sql:
            sql.execute("INSERT INTO shelf VALUES ('a')")
            with database.transaction() as inner:
                inner.execute("INSERT INTO shelf VALUES ('b')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert titles(database) == []


def test_a_broken_rule_is_told_as_such_and_undone(database):
    def insert_twice():
        with database.transaction() as sql:
            sql.execute("INSERT INTO shelf VALUES ('a')")
            sql.execute("INSERT INTO shelf VALUES ('a')")

    with pytest.raises(sqlite3.IntegrityError):
        insert_twice()
    assert titles(database) == []


def test_readers_see_one_state_while_a_writer_goes_on(database):
    with database.read() as before:
        before.execute("SELECT * FROM shelf").fetchall()
        with database.transaction() as sql:
            sql.execute("INSERT INTO shelf VALUES ('a')")
        assert before.execute("SELECT count(*) FROM shelf").fetchone()[0] == 0
    assert titles(database) == ["a"]


def test_a_checkpoint_brings_what_is_committed_into_the_file_while_others_read(tmp_path):
    database = Database(tmp_path / "shelf.sqlite")
    database.checkpoint()  # nothing to do
    with database.transaction() as sql:
        sql.execute("CREATE TABLE book (title TEXT)")
        sql.execute("INSERT INTO book VALUES ('Emma')")
    with database.read() as sql:
        assert sql.execute("SELECT title FROM book").fetchone()[0] == "Emma"
        database.checkpoint()
    shutil.copy(tmp_path / "shelf.sqlite", tmp_path / "alone.sqlite")  # without the write-ahead log
    with contextlib.closing(sqlite3.connect(tmp_path / "alone.sqlite")) as alone:
        assert alone.execute("SELECT title FROM book").fetchone() == ("Emma",)
    database.close()


def test_readers_cannot_write(database):
    with pytest.raises(StorageError), database.read() as sql:
        sql.execute("INSERT INTO shelf VALUES ('a')")


def test_many_threads_write_without_losing_anything(database):
    def write(number):
        for step in range(20):
            with database.transaction() as sql:
                sql.execute("INSERT INTO shelf VALUES (?)", (f"{number}-{step}",))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(titles(database)) == 160


def test_a_full_disk_is_a_storage_error_and_undone(database):
    def overfill():
        with database.transaction() as sql:
            pages = sql.execute("PRAGMA page_count").fetchone()[0]
            sql.execute(f"PRAGMA max_page_count={pages + 2}")
            sql.execute("INSERT INTO shelf VALUES (hex(zeroblob(100000)))")

    with pytest.raises(StorageError, match="full"):
        overfill()
    assert titles(database) == []


def test_what_is_committed_outlives_kill_9(tmp_path):
    program = """
import os, signal, sys
from edgekit_fleet.store.database import Database
database = Database(sys.argv[1])
database.migrate("shelf", ["CREATE TABLE shelf (title TEXT)"])
with database.transaction() as sql:
    sql.execute("INSERT INTO shelf VALUES ('kept')")
with database.transaction() as sql:
    sql.execute("INSERT INTO shelf VALUES ('not committed')")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = str(tmp_path / "a.sqlite")
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9
    database = Database(path)
    assert titles(database) == ["kept"]
    database.close()


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database(tmp_path / "a.sqlite")


@pytest.mark.parametrize("url", ["postgresql://host/fleet", "postgresql+psycopg://host/fleet"])
def test_postgresql_is_told_to_come_later(tmp_path, url):
    with pytest.raises(ConfigError, match="later version"):
        open_database(tmp_path, url)


def test_another_kind_of_database_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'mysql'"):
        open_database(tmp_path, "mysql://host/fleet")


def test_a_url_names_the_file(tmp_path):
    open_database(tmp_path, f"sqlite:///{tmp_path}/deep/a.sqlite").close()
    open_database(tmp_path).close()
    assert (tmp_path / "deep" / "a.sqlite").exists()
    assert (tmp_path / "fleet.sqlite").exists()
