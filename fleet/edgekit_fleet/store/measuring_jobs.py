"""Measurement jobs: rows in, rows out. ``measuring.jobs`` says what their states mean.

Functions that take ``sql`` run in the transaction that their caller opened.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit_fleet.store import cursors
from edgekit_fleet.store.cursors import EventRow
from edgekit_fleet.store.database import Database, Sql

KEPT_PER_DEVICE = 100

_MIGRATIONS = [
    """
    CREATE TABLE measuring_job (
      number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, device TEXT NOT NULL, model TEXT NOT NULL,
      version TEXT NOT NULL, sha256 TEXT NOT NULL, target TEXT NOT NULL, bytes INTEGER NOT NULL,
      threads INTEGER NOT NULL, seconds REAL NOT NULL, created_ms INTEGER NOT NULL,
      expires_ms INTEGER NOT NULL, command TEXT NOT NULL DEFAULT '', state TEXT NOT NULL,
      code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', settled_ms INTEGER, result TEXT
    );
    CREATE INDEX measuring_job_device ON measuring_job (device, number);
    CREATE INDEX measuring_job_command ON measuring_job (command);
    CREATE TABLE measuring_cursor (event INTEGER NOT NULL);
    INSERT INTO measuring_cursor VALUES (0);
    """,
]


@dataclass(frozen=True)
class NewJob:
    """What a job shall measure, and until when; ``bytes`` is the size of the bundle's manifest."""

    id: str
    device: str
    model: str
    version: str
    sha256: str
    target: str
    bytes: int
    threads: int
    seconds: float
    created_ms: int
    expires_ms: int


@dataclass(frozen=True)
class JobRow(NewJob):
    """One job; ``result`` is the JSON of the device's record once it is done."""

    number: int
    command: str
    state: str
    code: str
    reason: str
    settled_ms: int | None
    result: str | None


class Jobs:
    """The jobs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("measuring", _MIGRATIONS)

    def add(self, job: NewJob) -> JobRow:
        """Insert a waiting job; the oldest jobs of its device beyond 100 are deleted."""
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO measuring_job (id, device, model, version, sha256, target, bytes, threads,"
                " seconds, created_ms, expires_ms, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,'waiting')",
                (
                    *(job.id, job.device, job.model, job.version, job.sha256, job.target, job.bytes),
                    *(job.threads, job.seconds, job.created_ms, job.expires_ms),
                ),
            )
            sql.execute(
                "DELETE FROM measuring_job WHERE device = ? AND number NOT IN (SELECT number FROM"
                " measuring_job WHERE device = ? ORDER BY number DESC LIMIT ?)",
                (job.device, job.device, KEPT_PER_DEVICE),
            )
            row = sql.execute("SELECT * FROM measuring_job WHERE id = ?", (job.id,)).fetchone()
        return JobRow(**dict(row))

    def set_command(self, job: str, command: str) -> None:
        """Record which command carries a job."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE measuring_job SET command = ? WHERE id = ?", (command, job))

    def get(self, job: str) -> JobRow | None:
        """Return one job."""
        with self._database.read() as sql:
            row = sql.execute("SELECT * FROM measuring_job WHERE id = ?", (job,)).fetchone()
        return None if row is None else JobRow(**dict(row))

    def open_on(self, device: str, now_ms: int) -> JobRow | None:
        """Return the newest job of a device that is neither settled nor expired."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT * FROM measuring_job WHERE device = ? AND settled_ms IS NULL AND expires_ms > ?"
                " ORDER BY number DESC LIMIT 1",
                (device, now_ms),
            ).fetchone()
        return None if row is None else JobRow(**dict(row))

    def page(self, *, device: str = "", before: int | None = None, limit: int = 50) -> list[JobRow]:
        """Return jobs, the newest first; ``before`` is the number of the last one shown."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM measuring_job WHERE number < ? AND (? = '' OR device = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, device, device, limit),
            ).fetchall()
        return [JobRow(**dict(row)) for row in rows]

    @property
    def is_behind(self) -> bool:
        """Whether there are events that ``take_events`` has not returned yet."""
        with self._database.read() as sql:
            return cursors.is_behind(sql, "measuring_cursor")


def take_events(sql: Sql, limit: int) -> list[EventRow]:
    """Return the next measurements and command answers of devices, each once."""
    return cursors.take(sql, "measuring_cursor", ("measurement", "answer"), limit)


def take_answer(
    sql: Sql, device: str, command: str, *, state: str, reason: str, settled_ms: int | None
) -> str | None:
    """Change the state of the waiting job that a command carries; return the job, None without one."""
    row = sql.execute(
        "SELECT id FROM measuring_job WHERE command = ? AND device = ? AND state = 'waiting'",
        (command, device),
    ).fetchone()
    if row is None:
        return None
    sql.execute(
        "UPDATE measuring_job SET state = ?, reason = ?, settled_ms = ? WHERE id = ?",
        (state, reason, settled_ms, row["id"]),
    )
    return str(row["id"])


def take_result(
    sql: Sql,
    device: str,
    job: str,
    *,
    state: str,
    code: str,
    reason: str,
    settled_ms: int | None,
    result: str | None,
) -> bool:
    """Change the state of a device's job; return False for a job that is settled or not the device's."""
    changed = sql.execute(
        "UPDATE measuring_job SET state = ?, code = ?, reason = ?, settled_ms = ?, result = ?"
        " WHERE id = ? AND device = ? AND settled_ms IS NULL",
        (state, code, reason, settled_ms, result, job, device),
    )
    return changed.rowcount > 0
