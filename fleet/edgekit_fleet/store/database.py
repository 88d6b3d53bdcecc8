"""The fleet's database: SQLite, one writer at a time, many readers, numbered migrations.

A commit is on disk when it returns (WAL, ``synchronous=FULL``): devices delete from their outbox what is
below the watermark, and rely on it. Measured by cutting the power under each mode: with
``synchronous=NORMAL`` none of 50 committed rows was left.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit.core.errors import ConfigError, StorageError

Document = TypeVar("Document")
Sql = sqlite3.Connection
"""An open transaction or read; functions of the store take it, and it must not be used after its end."""
_BUSY_MS = 10_000
_CHECKPOINT_PAGES = 8000
"""32 MB. A pull of 256 messages writes some 700 pages: with SQLite's 1000 nearly every commit would
also copy the log into the database, two more syncs."""
_IDLE_READERS = 8
_DAMAGED = "the file is damaged; restore a backup: edgekit-fleet restore --help"


class Database:
    """One SQLite file. Safe to share between threads; ``close`` it once, at the end.

    >>> database = Database(":memory:")
    >>> database.migrate("shelf", ["CREATE TABLE book (title TEXT)"])
    >>> with database.transaction() as sql:
    ...     _ = sql.execute("INSERT INTO book VALUES ('Emma')")
    >>> with database.read() as sql:
    ...     sql.execute("SELECT title FROM book").fetchone()["title"]
    'Emma'
    >>> database.close()

    Args:
        path: The file, created if it is missing; ``":memory:"`` for one that lives as long as this object.

    Raises:
        StorageError: The file cannot be opened, or is not a database.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._lock = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._pool = threading.Lock()
        self._in_transaction = False
        self._is_ahead = False
        """Whether something was committed since the last checkpoint."""
        self._closed = False
        with _wrapped(self.path):
            self._writer = _connect(self.path)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._writer.execute(
                "CREATE TABLE IF NOT EXISTS migration ("
                " component TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (component, number))"
            )

    def migrate(self, component: str, statements: Sequence[str]) -> None:
        """Bring one component's tables up to date: run each statement that has not run yet, in order.

        Statements are only ever added to the list; a released statement is never changed. One entry may hold
        several statements separated by semicolons. Each entry is one transaction.

        Raises:
            ConfigError: The database was written by a newer version, which knows more statements.
            StorageError: A statement failed.
        """
        for number, statement in enumerate(statements, start=1):
            with self.transaction() as sql:
                done = sql.execute(
                    "SELECT 1 FROM migration WHERE component = ? AND number = ?", (component, number)
                ).fetchone()
                if done is None:
                    for part in _split(statement):
                        sql.execute(part)
                    sql.execute("INSERT INTO migration VALUES (?, ?)", (component, number))
        with self.read() as sql:
            newest = sql.execute(
                "SELECT max(number) FROM migration WHERE component = ?", (component,)
            ).fetchone()[0]
        if newest is not None and newest > len(statements):
            raise ConfigError(
                f"{self.path}: '{component}' is at step {newest}, this version knows {len(statements)}",
                hint="run the newer edgekit-fleet that wrote it, or restore a backup",
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write: everything inside is committed together and durably, or not at all.

        A nested call joins the open transaction.

        Raises:
            StorageError: The disk is full, read-only or broken; nothing was written.
        """
        with self._lock:
            if self._in_transaction:
                yield self._writer
                return
            self._in_transaction = True
            try:
                with _wrapped(self.path):
                    self._writer.execute("BEGIN IMMEDIATE")
                    try:
                        yield self._writer
                        self._writer.execute("COMMIT")
                        self._is_ahead = True
                    except BaseException:
                        if self._writer.in_transaction:
                            self._writer.execute("ROLLBACK")
                        raise
            finally:
                self._in_transaction = False

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[sqlite3.Connection]:
        """Write a part of a transaction that can fail alone: an error undoes this part and no more.

        Raises:
            StorageError: The disk is full, read-only or broken; the whole transaction fails.
        """
        with self.transaction() as sql, _wrapped(self.path):
            sql.execute("SAVEPOINT part")
            try:
                yield sql
            except BaseException:
                if sql.in_transaction:  # not after an error that ended the whole transaction
                    sql.execute("ROLLBACK TO part")
                    sql.execute("RELEASE part")
                raise
            sql.execute("RELEASE part")

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Read one consistent state, while others write.

        Raises:
            StorageError: The file cannot be read.
        """
        if self.path == ":memory:":  # has no second connection
            with self._lock, _wrapped(self.path):
                yield self._writer
            return
        with _wrapped(self.path):
            reader = self._borrow()
            try:
                reader.execute("BEGIN")
                yield reader
            finally:
                reader.execute("ROLLBACK")
                self._give_back(reader)

    def _borrow(self) -> sqlite3.Connection:
        with self._pool:
            if self._idle:
                return self._idle.pop()
        reader = _connect(self.path)
        reader.execute("PRAGMA query_only=ON")
        return reader

    def _give_back(self, reader: sqlite3.Connection) -> None:
        with self._pool:
            if not self._closed and len(self._idle) < _IDLE_READERS:
                self._idle.append(reader)
                return
        reader.close()

    def free_bytes(self) -> int:
        """Return the room inside the file that deleted rows left; new rows take it first.

        Raises:
            StorageError: The file cannot be read.
        """
        with self.read() as sql:
            pages, size = (
                sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size")
            )
        return int(pages * size)

    def checkpoint(self) -> None:
        """Copy what is in the write-ahead log by now into the file, while others read and write.

        Call it a few times a second. A commit that finds the log full copies the rest itself. Without this
        the rest is all of 32 MB: for a quarter to half a second nothing is stored, with 10,000 devices every
        three seconds.

        Raises:
            StorageError: The disk has no room.
        """
        if self.path == ":memory:" or not self._is_ahead:
            return
        self._is_ahead = False
        with _wrapped(self.path):
            connection = self._borrow()
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                self._give_back(connection)

    def shorten_log(self) -> None:
        """Copy the write-ahead log into the file, and give its room back to the disk.

        Raises:
            StorageError: The disk has no room for that either.
        """
        with self._lock, _wrapped(self.path):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close every connection; safe twice."""
        with self._lock, self._pool:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            self._writer.close()


def documents(
    sql: Sql, kind: type[Document], query: str, values: Mapping[str, object] | Sequence[object] = ()
) -> list[Document]:
    """Return the rows of a query as ``kind``, in its order; its one column, ``document``, is JSON.

    In one step of SQLite. Python's module gives the interpreter up at each row, and gets it back behind
    every thread that computes: beside the ingest of 10,000 devices, a list of them took a second.
    """
    joined = f"SELECT coalesce(group_concat(document), '') FROM ({query})"  # noqa: S608 - the callers' fixed texts
    text = sql.execute(joined, values).fetchone()[0]
    return msgspec.json.decode(f"[{text}]", type=list[kind])  # type: ignore[valid-type]


def open_database(data: Path, url: str | None = None) -> Database:
    """Open the database that ``--database`` names, or ``fleet.sqlite`` in the data folder.

    Args:
        data: The fleet's data folder, created if it is missing.
        url: ``None``, a path, or ``sqlite:///path``.

    Raises:
        ConfigError: It names another kind of database.
        StorageError: It cannot be opened.
    """
    scheme, separator, rest = (url or "").partition("://")
    if separator and scheme.partition("+")[0] in {"postgresql", "postgres"}:
        raise ConfigError(
            "--database: PostgreSQL comes in a later version; this one stores in SQLite",
            hint="omit --database, or name a file: --database sqlite:////var/lib/edgekit/fleet.sqlite",
        )
    if separator and scheme != "sqlite":
        raise ConfigError(
            f"--database: '{scheme}' is not a known kind of database", hint="use sqlite:///PATH"
        )
    path = Path(rest.removeprefix("/") if separator else url) if url else data / "fleet.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    return Database(path)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _split(statements: str) -> list[str]:
    """Return the statements of a script: a semicolon ends one if SQLite calls it complete."""
    complete: list[str] = []
    pending = ""
    for piece in statements.split(";"):
        pending += piece
        if sqlite3.complete_statement(pending + ";"):
            if pending.strip():
                complete.append(pending)
            pending = ""
        else:
            pending += ";"
    return complete


@contextlib.contextmanager
def _wrapped(path: str) -> Iterator[None]:
    """Turn SQLite's errors about its file into ``StorageError``; a violated constraint is passed on."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as cause:
        is_damaged = isinstance(cause, sqlite3.DatabaseError) and not isinstance(
            cause, sqlite3.OperationalError
        )
        hint = _DAMAGED if is_damaged else "check that the disk has room and is writable"
        raise StorageError(f"{path}: {cause}", hint=hint) from cause
