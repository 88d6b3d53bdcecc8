"""Measurement jobs: which device shall measure which signed bundle, and what came of it."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgekit.core import wire
from edgekit_fleet.measuring import costs
from edgekit_fleet.registry.trust import Target
from edgekit_fleet.store.database import Database

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "postponed", "done", "failed", "expired"]
KEPT_PER_DEVICE = 100
GRACE_MS = 60_000
"""A device ends a job at its expiry; its last word may take so long."""
_BATCH = 500

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
class Wanted:
    """What a job shall measure; ``threads`` 0 is the device's own choice."""

    device: str
    target: Target
    threads: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """One job as it stands; ``result`` is the device's record where it is done."""

    number: int
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
    command: str
    state: State
    code: str
    reason: str
    settled_ms: int | None
    result: dict[str, Any] | None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the command that the device gets."""
        return {
            "job": self.id,
            "model": self.model,
            "version": self.version,
            "target": self.target,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "threads": self.threads,
            "seconds": self.seconds,
            "expires_unix_ms": self.expires_ms,
        }


class Jobs:
    """The jobs of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.costs = costs.Costs(database)
        database.migrate("measuring", _MIGRATIONS)

    def create(self, wanted: Wanted, now_ms: int, expires_ms: int) -> Job:
        """Record a new job; the oldest of the device beyond 100 are forgotten."""
        target, number = wanted.target, f"m-{secrets.token_hex(4)}"
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO measuring_job (id, device, model, version, sha256, target, bytes, threads,"
                " seconds, created_ms, expires_ms, state) VALUES (?,?,?,?,?,?,?,?,?,?,?,'waiting')",
                (
                    *(number, wanted.device, target.model, target.version, target.sha256, target.path),
                    *(target.bytes, wanted.threads, wanted.seconds, now_ms, expires_ms),
                ),
            )
            sql.execute(
                "DELETE FROM measuring_job WHERE device = ? AND number NOT IN (SELECT number FROM"
                " measuring_job WHERE device = ? ORDER BY number DESC LIMIT ?)",
                (wanted.device, wanted.device, KEPT_PER_DEVICE),
            )
            row = sql.execute("SELECT * FROM measuring_job WHERE id = ?", (number,)).fetchone()
        return _job(row, now_ms)

    def sent(self, job: str, command: str) -> None:
        """Note which command carries a job."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE measuring_job SET command = ? WHERE id = ?", (command, job))

    def get(self, job: str, now_ms: int) -> Job | None:
        """Return one job."""
        with self._database.read() as sql:
            row = sql.execute("SELECT * FROM measuring_job WHERE id = ?", (job,)).fetchone()
        return None if row is None else _job(row, now_ms)

    def open_on(self, device: str, now_ms: int) -> Job | None:
        """Return the job that a device has not ended yet."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT * FROM measuring_job WHERE device = ? AND settled_ms IS NULL AND expires_ms > ?"
                " ORDER BY number DESC LIMIT 1",
                (device, now_ms),
            ).fetchone()
        return None if row is None else _job(row, now_ms)

    def page(self, now_ms: int, *, device: str = "", before: int | None = None, limit: int = 50) -> list[Job]:
        """Return jobs, the newest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM measuring_job WHERE number < ? AND (? = '' OR device = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, device, device, limit),
            ).fetchall()
        return [_job(row, now_ms) for row in rows]

    def take_records(self, now_ms: int) -> list[str]:
        """Read what devices sent since the last time; return the jobs that it changed.

        Each record is taken once: the cursor moves in the same commit.
        """
        changed: list[str] = []
        with self._database.transaction() as sql:
            cursor = sql.execute("SELECT event FROM measuring_cursor").fetchone()["event"]
            newest = sql.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
            if newest < cursor:  # the store forgot all of them and numbers anew
                cursor = 0
            rows = sql.execute(
                "SELECT id, device, at_ms, kind, body FROM event WHERE id > ?"
                " AND kind IN ('measurement', 'answer') ORDER BY id LIMIT ?",
                (cursor, _BATCH),
            ).fetchall()
            for row in rows:
                changed += _take(sql, row, now_ms)
            reached = rows[-1]["id"] if len(rows) == _BATCH else newest
            if reached != cursor:
                sql.execute("UPDATE measuring_cursor SET event = ?", (reached,))
        return changed

    @property
    def is_behind(self) -> bool:
        """Whether records wait to be taken."""
        with self._database.read() as sql:
            cursor = sql.execute("SELECT event FROM measuring_cursor").fetchone()["event"]
            return bool(sql.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0] > cursor)


def _take(sql: sqlite3.Connection, row: sqlite3.Row, now_ms: int) -> list[str]:
    body = json.loads(row["body"])
    try:
        if row["kind"] == "answer":
            return _answered(sql, row["device"], msgspec.convert(body, type=wire.CommandAnswer), now_ms)
        record = msgspec.convert(body, type=wire.MeasurementRecord)
    except msgspec.ValidationError as cause:  # a number that JSON has no word for
        logger.warning("a record of %s is passed over: %s", row["device"], cause)
        return []
    costs.keep(sql, row["device"], record, row["at_ms"])
    return _measured(sql, row["device"], record, now_ms) if record.job else []


def _answered(sql: sqlite3.Connection, device: str, answer: wire.CommandAnswer, now_ms: int) -> list[str]:
    """A device took a job, or refused it."""
    row = sql.execute(
        "SELECT id FROM measuring_job WHERE command = ? AND device = ? AND state = 'waiting'",
        (answer.id, device),
    ).fetchone()
    if row is None or not answer.id:
        return []
    state, settled_ms = ("running", None) if answer.ok else ("failed", now_ms)
    sql.execute(
        "UPDATE measuring_job SET state = ?, reason = ?, settled_ms = ? WHERE id = ?",
        (state, "" if answer.ok else answer.message[:1000], settled_ms, row["id"]),
    )
    return [row["id"]]


def _measured(sql: sqlite3.Connection, device: str, record: wire.MeasurementRecord, now_ms: int) -> list[str]:
    """A device that has a job told how it fares; what is settled stays as it is."""
    is_end = record.state != "postponed"
    result = msgspec.json.encode(record).decode() if record.state == "done" else None
    found = sql.execute(
        "UPDATE measuring_job SET state = ?, code = ?, reason = ?, settled_ms = ?, result = ?"
        " WHERE id = ? AND device = ? AND settled_ms IS NULL",
        (
            *(record.state, record.code[:64], record.reason[:2000], now_ms if is_end else None, result),
            *(record.job, device),
        ),
    )
    return [record.job] if found.rowcount else []


def state_of(state: State, reason: str, expires_ms: int, now_ms: int) -> tuple[State, str]:
    """Return the state of a job, and why, as its time tells.

    >>> state_of("waiting", "", 1000, 2000)
    ('expired', 'the device did not take the job in time')
    """
    if state == "waiting" and now_ms > expires_ms:
        return "expired", "the device did not take the job in time"
    if state in ("running", "postponed") and now_ms > expires_ms + GRACE_MS:
        last = f"; it last said: {reason}" if reason else ""
        return "expired", f"the device took the job, and no result came in time{last}"
    return state, reason


def _job(row: sqlite3.Row, now_ms: int) -> Job:
    fields: dict[str, Any] = dict(row)
    state, reason = state_of(row["state"], row["reason"], row["expires_ms"], now_ms)
    result = json.loads(row["result"]) if row["result"] else None
    return Job(**{**fields, "state": state, "reason": reason, "result": result})
