"""The ledger on disk: how much data left the device and how much was refused, in bounded space."""

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from edgekit.core.ports import Clock
from edgekit.sync.store import move_aside

logger = logging.getLogger(__name__)

Decision: TypeAlias = Literal["passed", "refused"]
_Key: TypeAlias = tuple[int, str, str, str, str]
_HOUR_S, _DAY_S = 3600, 86_400
FLUSH_S = 60.0
"""How long sums are only in memory: a power cut loses this much of the ledger."""
_OWN_FLUSHES = 15
"""So many periods pass until the agent's own reports alone, one every few minutes, are a write."""
_MAX_WAITING = 10_000
_MAX_NAME = 100
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger(
  start_unix_s INTEGER NOT NULL, pipeline TEXT NOT NULL, data_class TEXT NOT NULL,
  destination TEXT NOT NULL, decision TEXT NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY(start_unix_s, pipeline, data_class, destination, decision)) WITHOUT ROWID
"""
_ADD = """
INSERT INTO ledger VALUES(?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count, bytes = bytes + excluded.bytes
"""


class Entry(msgspec.Struct, frozen=True):
    """The data of one class, pipeline and destination that passed or was refused in one hour.

    ``start_unix_s`` is the beginning of the hour, or of the day for old entries.
    """

    start_unix_s: int
    pipeline: str
    data_class: str
    destination: str
    decision: Decision
    count: int
    bytes: int


class Ledger:
    """Sums in memory and writes every ``flush_s``, so that it does not wear out the flash.

    Sums of no pipeline (the device's health) wait 15 times as long when no others came.
    Thread-safe. Never raises for a full or broken disk: ``counters`` has what was not written. Over
    ``max_rows``, hours are merged into days, then the oldest days are deleted.
    """

    def __init__(
        self, path: Path, clock: Clock, *, max_rows: int = 20_000, flush_s: float | None = None
    ) -> None:
        self._path, self._clock, self._max_rows = path, clock, max_rows
        self._flush_ns = int((FLUSH_S if flush_s is None else flush_s) * 1e9)
        self._lock = threading.Lock()
        self._waiting: dict[_Key, list[int]] = {}
        self._has_pipelines = False
        self._written_ns = clock.monotonic_ns()
        self._db: sqlite3.Connection | None = None
        self.counters = dict.fromkeys(("storage_errors", "lost", "resets"), 0)

    def add(
        self, pipeline: str, data_class: str, destination: str, decision: Decision, size: int, count: int = 1
    ) -> None:
        """Add ``count`` decisions about ``size`` bytes in all."""
        start = self._clock.unix_ms() // 1000 // _HOUR_S * _HOUR_S
        key = (start, pipeline[:_MAX_NAME], data_class[:_MAX_NAME], destination[:_MAX_NAME], decision)
        with self._lock:
            if key not in self._waiting and len(self._waiting) >= _MAX_WAITING:
                self.counters["lost"] += 1
                return
            tally = self._waiting.setdefault(key, [0, 0])
            tally[0] += count
            tally[1] += size
            self._has_pipelines |= bool(pipeline)
            due_ns = self._flush_ns if self._has_pipelines else self._flush_ns * _OWN_FLUSHES
            if self._clock.monotonic_ns() - self._written_ns >= due_ns:
                self._write()

    def flush(self) -> None:
        """Write the sums to disk."""
        with self._lock:
            self._write()

    def entries(self, since_unix_s: int = 0) -> list[Entry]:
        """Return the entries, oldest first, including unwritten ones."""
        with self._lock:
            self._write()
            tallies = {key: list(tally) for key, tally in self._waiting.items()}
            with contextlib.suppress(sqlite3.Error, OSError):
                for *key, count, size in self._connect().execute(
                    "SELECT * FROM ledger ORDER BY 1, 2, 3, 4, 5"
                ):
                    tally = tallies.setdefault(tuple(key), [0, 0])
                    tally[0] += count
                    tally[1] += size
        return [Entry(*key, *tally) for key, tally in sorted(tallies.items()) if key[0] >= since_unix_s]  # type: ignore[arg-type]

    def _write(self) -> None:
        self._written_ns = self._clock.monotonic_ns()
        if not self._waiting:
            return
        try:
            db = self._connect()
            with db:
                db.executemany(_ADD, [(*key, *tally) for key, tally in self._waiting.items()])
                self._bound(db)
        except (sqlite3.Error, OSError) as cause:
            self.counters["storage_errors"] += 1
            logger.warning("ledger %s: %s", self._path, cause)
            self._discard(cause)
            return
        self._waiting.clear()
        self._has_pipelines = False

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, check_same_thread=False, timeout=2.0)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA cache_size=-128")
                db.execute(_SCHEMA)
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _discard(self, cause: Exception) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        if not isinstance(cause, (sqlite3.OperationalError, OSError)):  # those: full, read-only, locked
            self.counters["resets"] += 1
            with contextlib.suppress(OSError):
                move_aside(self._path)

    def _bound(self, db: sqlite3.Connection) -> None:
        if self._rows(db) <= self._max_rows:
            return
        today = self._clock.unix_ms() // 1000 // _DAY_S * _DAY_S
        old = db.execute("SELECT * FROM ledger WHERE start_unix_s < ?", (today,)).fetchall()
        db.execute("DELETE FROM ledger WHERE start_unix_s < ?", (today,))
        db.executemany(_ADD, [(row[0] // _DAY_S * _DAY_S, *row[1:]) for row in old])
        excess = self._rows(db) - self._max_rows
        if excess > 0:
            first = db.execute(
                "SELECT start_unix_s FROM ledger ORDER BY 1 LIMIT 1 OFFSET ?", (excess - 1,)
            ).fetchone()[0]
            self.counters["lost"] += db.execute(
                "DELETE FROM ledger WHERE start_unix_s <= ?", (first,)
            ).rowcount

    def _rows(self, db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT count(*) FROM ledger").fetchone()[0])

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        with self._lock:
            self._write()
            if self._db is not None:
                self._db.close()
                self._db = None
