"""Events, items and frames as rows of a SQLite file that any SQLite client can query while it is written.

Every frame's rows are committed before the next frame, in WAL mode: ``kill -9`` loses none of them, and a
power cut the last few seconds at most. The tables and their columns are ``TABLES``; docs/pipelines.md shows
queries.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from edgekit.core.errors import StorageError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.receipt import result_key
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.document import event_documents, result_document

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""``PRAGMA user_version`` of the file; a file with another one is not written."""
_HEAD = {
    "captured_unix_ms": "INTEGER",
    "pipeline": "TEXT",
    "model": "TEXT",
    "version": "TEXT",
    "seq": "INTEGER",
}
_ITEM = {
    "label": "TEXT",
    "score": "REAL",
    "track": "INTEGER",
    "value": "REAL",
    "text": "TEXT",
    "box_left": "REAL",
    "box_top": "REAL",
    "box_right": "REAL",
    "box_bottom": "REAL",
}
TABLES: dict[str, dict[str, str]] = {
    "events": {
        **_HEAD,
        "id": "TEXT",
        "kind": "TEXT",
        "zone": "TEXT",
        "line": "TEXT",
        "end_unix_ms": "INTEGER",
        "previous": "TEXT",
        "count": "INTEGER",
        "total": "INTEGER",
        **_ITEM,
        "document": "TEXT",
    },
    "items": {**_HEAD, **_ITEM, "document": "TEXT"},
    "frames": {**_HEAD, "total": "INTEGER", "counts": "TEXT", "stage_ms": "TEXT"},
}
"""Columns and types. ``document``, ``counts`` and ``stage_ms`` are JSON; boxes are in pixels of the frame."""
_WRITTEN = "CREATE TABLE IF NOT EXISTS written(number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT)"
"""The keys of the last results, so that one that a source gives again after a kill is not there twice."""
MOST_IN_DOUBT = 2048
Table = Literal["events", "items", "frames"]
_CHECK_EVERY = 256
"""Frames between two looks at the limits."""
_KEPT = 0.9
"""The share of ``max_mb`` that is left after old rows were deleted."""
_DAY_MS = 86_400_000


class SqliteOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a SQLite file.

    ``tables``: what is kept. Over ``max_mb``, and after ``max_days`` (0: no limit), the oldest rows are
    deleted.
    """

    path: str
    tables: tuple[Table, ...] = ("events",)
    max_mb: Annotated[float, msgspec.Meta(ge=0.1)] = 500.0
    max_days: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def problems(self) -> Iterator[str]:
        """Report a sink that would write nothing."""
        if not self.tables:
            yield f"tables: want at least one of {', '.join(TABLES)}, got none"


class SqliteSink:
    """Adds rows to a file on this device, and none of a result that it has; pixels are never in it.

    A damaged file is renamed to ``<path>.damaged``, with a warning, and a new one begins.

    Raises:
        StorageError: The file cannot be opened, or is not one of this sink's.
    """

    Options = SqliteOptions

    def __init__(self, options: SqliteOptions, context: SinkContext) -> None:
        self._options = options
        self._path = context.path(options.path)
        self._encoder = msgspec.json.Encoder()
        self._frames = 0
        self._db: sqlite3.Connection | None = None
        with self._checked():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.DatabaseError as damage:
                if isinstance(damage, sqlite3.OperationalError):
                    raise
                self._start_over(damage)

    def _open(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=2.0)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _prepare(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        is_empty = not db.execute("PRAGMA schema_version").fetchone()[0]
        if version != SCHEMA_VERSION and not is_empty:
            raise StorageError(
                f"{self._path}: is a SQLite file of version {version}, want {SCHEMA_VERSION}",
                hint="name another path, or move that file away",
            )
        for pragma in (
            "auto_vacuum=INCREMENTAL",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "cache_size=-1024",
        ):
            db.execute(f"PRAGMA {pragma}")
        for table, columns in TABLES.items():
            listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            db.execute(f"CREATE TABLE IF NOT EXISTS {table}({listed})")
            db.execute(f"CREATE INDEX IF NOT EXISTS {table}_time ON {table}(captured_unix_ms)")
        db.execute(_WRITTEN)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _start_over(self, damage: Exception) -> None:
        logger.warning("%s is damaged and renamed to %s.damaged: %s", self._path, self._path.name, damage)
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.replace(self._path.with_name(f"{self._path.name}.damaged{suffix}"))
        self._open()

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as cause:
            raise StorageError(f"{self._path}: {cause}") from cause
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror}") from cause

    def write(self, result: Result) -> None:
        """Add the frame's rows, and commit them."""
        db = self._db
        if db is None:
            raise StorageError(f"{self._path}: is closed")
        rows = {table: list(self._rows(table, result)) for table in self._options.tables}
        key = result_key(result.pipeline, result.frame)
        with self._checked():
            if any(rows.values()) and not (result.is_again and self._has(db, key)):
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for table, added in rows.items():
                        marks = ",".join("?" * len(TABLES[table]))
                        db.executemany(f"INSERT INTO {table} VALUES({marks})", added)
                    if key:
                        db.execute("INSERT INTO written(key) VALUES(?)", (key,))
            if self._frames % _CHECK_EVERY == 0:
                self._bound(db, result.frame.captured_unix_ms)
        self._frames += 1

    def _has(self, db: sqlite3.Connection, key: str) -> bool:
        return db.execute("SELECT 1 FROM written WHERE key = ?", (key,)).fetchone() is not None

    def _rows(self, table: Table, result: Result) -> Iterator[tuple[Any, ...]]:
        if table == "events":
            documents = event_documents(result)
        else:
            whole = result_document(result)
            head = {name: whole[name] for name in _HEAD}
            documents = [whole] if table == "frames" else [head | item for item in whole["items"]]
        for document in documents:
            yield tuple(self._cell(name, document) for name in TABLES[table])

    def _cell(self, column: str, document: dict[str, Any]) -> Any:
        if column == "document":
            return self._encoder.encode(document).decode()
        if column.startswith("box_"):
            box = document.get("box")
            return box[("left", "top", "right", "bottom").index(column[4:])] if box else None
        value = document.get(column)
        return self._encoder.encode(value).decode() if isinstance(value, (dict, list, tuple)) else value

    def _bound(self, db: sqlite3.Connection, now_unix_ms: int) -> None:
        """Delete the rows that are too old, and the oldest ones while the file is too large."""
        db.execute(
            "DELETE FROM written WHERE number <= (SELECT max(number) FROM written) - ?", (MOST_IN_DOUBT,)
        )
        if self._options.max_days:
            self._delete_before(db, now_unix_ms - int(self._options.max_days * _DAY_MS))
        most_bytes = self._options.max_mb * 1e6
        if self._used_bytes(db) > most_bytes:
            while self._used_bytes(db) > most_bytes * _KEPT and (cut := self._cut(db)) is not None:
                self._delete_before(db, cut)
            db.execute("PRAGMA incremental_vacuum").fetchall()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _used_bytes(self, db: sqlite3.Connection) -> int:
        pages, free, size = (
            int(db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def _cut(self, db: sqlite3.Connection) -> int | None:
        """Return a time before which the oldest tenth of all rows lies; None without rows."""
        union = " UNION ALL ".join(f"SELECT captured_unix_ms AS at FROM {table}" for table in TABLES)  # noqa: S608 - constants
        (number,) = db.execute(f"SELECT count(*) FROM ({union})").fetchone()  # noqa: S608 - constants
        tenth = f"SELECT at FROM ({union}) ORDER BY at LIMIT 1 OFFSET ?"  # noqa: S608 - constants
        found = db.execute(tenth, (number // 10,)).fetchone()
        return found[0] + 1 if found else None

    def _delete_before(self, db: sqlite3.Connection, unix_ms: int) -> None:
        with db:
            db.execute("BEGIN IMMEDIATE")
            for table in TABLES:
                db.execute(f"DELETE FROM {table} WHERE captured_unix_ms < ?", (unix_ms,))  # noqa: S608 - constants

    def close(self) -> None:
        """Close the file; safe to call twice."""
        db, self._db = self._db, None
        if db is not None:
            with self._checked():
                db.close()
