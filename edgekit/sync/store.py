"""The SQLite file of the outbox: rows, sequence numbers, watermark.

WAL with ``synchronous=FULL``: with NORMAL, a power cut lost even the table (measured with a file system
that drops what was not synced).
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from edgekit.core import wire

DAMAGE = (sqlite3.DatabaseError, sqlite3.InterfaceError)
_PAGE_BYTES = 4096
_LOWEST_PRIORITY = 9
_LEAP = 256
MOST_KEYS = 2048
"""Of messages that were put, so that one which is put again after a kill is not there twice."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, priority INTEGER NOT NULL, leaf TEXT NOT NULL,
  mono_ns INTEGER NOT NULL, unix_ms INTEGER NOT NULL, lived_s REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outbox_priority ON outbox(priority, seq);
CREATE INDEX IF NOT EXISTS outbox_events ON outbox(seq) WHERE leaf = 'ev';
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS written(number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE);
"""


class Row(msgspec.Struct, frozen=True):
    """One message to store."""

    priority: int
    leaf: str
    mono_ns: int
    unix_ms: int
    lived_s: float
    body: bytes
    key: str = ""


class OutboxFile:
    """One outbox's file, or memory without a path; a new file is a new *life* with its own ``boot``.

    It must hold ``max_bytes`` of bodies; the file may grow to twice that.

    Raises:
        sqlite3.DatabaseError: The file is damaged, or cannot be made.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        if path is not None:
            with contextlib.suppress(OSError):  # connecting raises with the reason
                path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(
            path if path is not None else ":memory:", isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(path, max_bytes)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path | None, max_bytes: int) -> None:
        run = self._db.execute
        run("PRAGMA busy_timeout=0")
        run("PRAGMA locking_mode=EXCLUSIVE")
        run("PRAGMA auto_vacuum=INCREMENTAL")
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA journal_size_limit=1048576")
        run("PRAGMA cache_size=-512")
        run(f"PRAGMA max_page_count={max(64, 2 * max_bytes // _PAGE_BYTES)}")
        if (verdict := run("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)
        self._db.executescript(_SCHEMA)
        if self._meta("boot") is None:
            life = 1 + (_read_life(path) if path is not None else 0)
            if path is not None:
                _write_life(path, life)
            run("INSERT INTO meta VALUES('boot', ?)", (f"{life}-{os.urandom(8).hex()}",))
        self.boot = str(self._meta("boot"))
        self.watermark = int(self._meta("watermark") or 0)
        self.lived_s = float(self._meta("lived_s") or 0.0)
        row = run("SELECT seq FROM sqlite_sequence WHERE name='outbox'").fetchone()
        self.last_seq = max(row[0] if row else 0, self.watermark)
        counted = run("SELECT count(*), coalesce(sum(length(body)), 0) FROM outbox").fetchone()
        self.rows, self.bytes = int(counted[0]), int(counted[1])
        self.connections = int(self._meta("connections") or 0)
        self._reserved = int(self._meta("handed") or 0)
        self.handed = min(self._reserved, self.last_seq)

    def _meta(self, name: str) -> int | float | str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def _put_meta(self, name: str, value: float | str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:  # SQLite ends it by itself when the disk is full
                    self._db.execute("ROLLBACK")
            raise

    def shrink(self) -> None:
        """Give back disk space after a failed action."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def append(self, rows: list[Row], lived_s: float, watermark: int, *, replaces: bool = False) -> int:
        """Add messages and delete those up to the watermark, durably, in one transaction.

        ``replaces``: in the place of others, the oldest of the lowest priority first, and none more important
        than the most important new one. They stay where the new ones cannot be stored all the same.

        Returns:
            How many it replaced.
        """
        gone, least = (0, 0), list[tuple[int, int]]()
        with self._transaction() as db:
            if replaces and rows:
                least = self._least(rows)
                db.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq, _ in least])
            if watermark > self.watermark:
                gone = self._delete("seq <= ?", (watermark,))
                self._put_meta("watermark", watermark)
            db.executemany(
                "INSERT INTO outbox(priority, leaf, mono_ns, unix_ms, lived_s, body) VALUES(?,?,?,?,?,?)",
                [(r.priority, r.leaf, r.mono_ns, r.unix_ms, r.lived_s, r.body) for r in rows],
            )
            if keys := [(row.key,) for row in rows if row.key]:
                db.executemany("INSERT OR IGNORE INTO written(key) VALUES(?)", keys)
                db.execute(
                    "DELETE FROM written WHERE number <= (SELECT max(number) FROM written) - ?", (MOST_KEYS,)
                )
            self._put_meta("lived_s", lived_s)
        self.last_seq += len(rows)
        self.watermark = max(self.watermark, watermark)
        self.handed = max(self.handed, self.watermark)
        self._count(gone[0] + len(rows), gone[1] + sum(len(row.body) for row in rows))
        self._count(-len(least), -sum(size for _, size in least))
        if gone[0]:
            self._db.execute("PRAGMA incremental_vacuum(64)").fetchall()
        return len(least)

    def has(self, key: str) -> bool:
        """Return whether a message of this key was one of the last that have keys."""
        return self._db.execute("SELECT 1 FROM written WHERE key = ?", (key,)).fetchone() is not None

    def _least(self, rows: list[Row]) -> list[tuple[int, int]]:
        """Return the (number, bytes) of messages that leave room for others, or all that may."""
        left = sum(len(row.body) for row in rows) + 2 * _PAGE_BYTES
        found = list[tuple[int, int]]()
        for priority in range(_LOWEST_PRIORITY, min(row.priority for row in rows) - 1, -1):
            for seq, size in self._db.execute(
                "SELECT seq, length(body) FROM outbox WHERE priority = ? ORDER BY seq", (priority,)
            ):
                found.append((seq, size))
                left -= size
                if left <= 0:
                    return found
        return found

    def _count(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size

    def _delete(self, where: str, values: tuple[float, ...]) -> tuple[int, int]:
        """Delete rows; returns the change of (rows, bytes), to be counted after the commit."""
        counted = self._db.execute(
            f"SELECT count(*), coalesce(sum(length(body)), 0) FROM outbox WHERE {where}",  # noqa: S608 - constants
            values,
        ).fetchone()
        self._db.execute(f"DELETE FROM outbox WHERE {where}", values)  # noqa: S608 - constants
        return -counted[0], -counted[1]

    def drop_older(self, lived_s: float) -> int:
        """Drop messages older than ``lived_s``, in running time; returns their number."""
        first = self._db.execute("SELECT lived_s FROM outbox ORDER BY seq LIMIT 1").fetchone()
        if first is None or first[0] >= lived_s:
            return 0
        with self._transaction():
            gone = self._delete("lived_s < ?", (lived_s,))
        self._count(*gone)
        return -gone[0]

    def drop_least(self, number: int) -> int:
        """Drop the ``number`` oldest messages of the lowest priority; returns how many."""
        with self._transaction() as db:
            lowest = db.execute("SELECT max(priority) FROM outbox").fetchone()[0]
            if lowest is None:
                return 0
            gone = self._delete(
                "seq IN (SELECT seq FROM outbox WHERE priority = ? ORDER BY seq LIMIT ?)", (lowest, number)
            )
        self._count(*gone)
        return -gone[0]

    def metrics(self, after: int, number: int) -> list[tuple[int, bytes]]:
        """Return metric reports after a sequence number, oldest first."""
        return self._db.execute(
            "SELECT seq, body FROM outbox WHERE seq > ? AND leaf = 'm' ORDER BY seq LIMIT ?", (after, number)
        ).fetchall()

    def replace(self, merged: Iterable[tuple[int, int, bytes]]) -> None:
        """Drop the first message of each pair and change the second's body."""
        rows = size = 0
        with self._transaction() as db:
            for gone, kept, body in merged:
                before = db.execute("SELECT length(body) FROM outbox WHERE seq = ?", (kept,)).fetchone()[0]
                db.execute("UPDATE outbox SET body = ? WHERE seq = ?", (body, kept))
                fewer_rows, fewer_bytes = self._delete("seq = ?", (gone,))
                rows, size = rows + fewer_rows, size + fewer_bytes + len(body) - before
        self._count(rows, size)

    def walk(self, leaf: str, after: int, limit: int) -> Iterator[tuple[int, bytes]]:
        """Yield (number, body) of one topic's messages after a number.

        With the metrics come the holes, each as a ``Gap`` with the number of its last message.
        """
        if leaf == "ev":
            yield from self._db.execute(
                "SELECT seq, body FROM outbox WHERE leaf = 'ev' AND seq > ? ORDER BY seq LIMIT ?",
                (after, limit),
            )
            return
        expected = after + 1
        for seq, body in self._db.execute(
            "SELECT seq, CASE leaf WHEN 'm' THEN body END FROM outbox WHERE seq > ? ORDER BY seq", (after,)
        ):
            if seq > expected:
                yield seq - 1, self._gap(expected, seq - 1)
            if body is not None:
                yield seq, body
            expected = seq + 1
        if expected <= self.last_seq:
            yield self.last_seq, self._gap(expected, self.last_seq)

    def _gap(self, first: int, last: int) -> bytes:
        return wire.encode_record(wire.Gap(mono_ns=0, unix_ms=0, first=first, last=last))

    def mark_handed(self, last: int) -> None:
        """Store that messages up to ``last`` may have left; beyond it, to write rarely."""
        self.handed = max(self.handed, last)
        if last > self._reserved:
            self._put_meta("handed", last + _LEAP)
            self._reserved = last + _LEAP

    def next_connection(self) -> None:
        """Count a connection, durably."""
        self._put_meta("connections", self.connections + 1)
        self.connections += 1

    def close(self, lived_s: float) -> None:
        """Close the file; ``abandon`` closes a damaged one."""
        self._put_meta("lived_s", lived_s)
        self._db.close()

    def abandon(self) -> None:
        """Close without writing."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def move_aside(path: Path) -> None:
    """Rename a damaged SQLite file with its companions; only the last damaged one is kept.

    Raises:
        OSError: It cannot be renamed.
    """
    for suffix in ("", "-wal", "-shm"):
        damaged = path.with_name(path.name + suffix)
        if damaged.exists():
            damaged.replace(path.with_name(f"{path.name}.damaged{suffix}"))


def _life_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.life")


def _read_life(path: Path) -> int:
    try:
        return int(_life_path(path).read_text("ascii")[:20])
    except (OSError, ValueError):
        return 0  # the random part of the name still distinguishes lives


def _write_life(path: Path, life: int) -> None:
    with contextlib.suppress(OSError):
        _life_path(path).write_text(str(life), "ascii")
