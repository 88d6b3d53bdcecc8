"""Measurement jobs: which device shall measure which signed bundle, and what the result was."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import msgspec

from edgekit.core import wire
from edgekit_fleet.measuring import costs
from edgekit_fleet.registry.trust import Target
from edgekit_fleet.store import measuring_jobs as rows
from edgekit_fleet.store.cursors import EventRow
from edgekit_fleet.store.database import Database, Sql

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "postponed", "done", "failed", "expired"]
GRACE_MS = 60_000
"""A device ends a job when it expires; its last record may take this long to arrive."""
_BATCH = 500


@dataclass(frozen=True)
class Request:
    """What a job shall measure; ``threads`` 0 is the device's own choice."""

    device: str
    target: Target
    threads: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """One job; ``result`` is the device's record once it is done. Times are Unix milliseconds."""

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
        self._rows = rows.Jobs(database)
        self.costs = costs.Costs(database)

    def create(self, request: Request, now_ms: int, expires_ms: int) -> Job:
        """Record a new job; the oldest jobs of the device beyond 100 are deleted."""
        target = request.target
        new = rows.NewJob(
            id=f"m-{secrets.token_hex(4)}",
            device=request.device,
            model=target.model,
            version=target.version,
            sha256=target.sha256,
            target=target.path,
            bytes=target.bytes,
            threads=request.threads,
            seconds=request.seconds,
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
        return _job(self._rows.add(new), now_ms)

    def sent(self, job: str, command: str) -> None:
        """Record which command carries a job."""
        self._rows.set_command(job, command)

    def get(self, job: str, now_ms: int) -> Job | None:
        """Return one job."""
        row = self._rows.get(job)
        return None if row is None else _job(row, now_ms)

    def open_on(self, device: str, now_ms: int) -> Job | None:
        """Return the job of a device that is not over."""
        row = self._rows.open_on(device, now_ms)
        return None if row is None else _job(row, now_ms)

    def page(self, now_ms: int, *, device: str = "", before: int | None = None, limit: int = 50) -> list[Job]:
        """Return jobs, the newest first; ``before`` is the number of the last one shown."""
        return [_job(row, now_ms) for row in self._rows.page(device=device, before=before, limit=limit)]

    def take_records(self, now_ms: int) -> list[str]:
        """Apply what devices sent since the last call; return the jobs that changed.

        Each record is applied once: the cursor moves in the same commit.
        """
        with self._database.transaction() as sql:
            changed = [_take(sql, event, now_ms) for event in rows.take_events(sql, _BATCH)]
        return [job for job in changed if job is not None]

    @property
    def is_behind(self) -> bool:
        """Whether there are records to apply."""
        return self._rows.is_behind


def _take(sql: Sql, event: EventRow, now_ms: int) -> str | None:
    """Apply one record; return the job that it changed."""
    body = json.loads(event.body)
    try:
        if event.kind == "answer":
            return _answered(sql, event.device, msgspec.convert(body, type=wire.CommandAnswer), now_ms)
        record = msgspec.convert(body, type=wire.MeasurementRecord)
    except msgspec.ValidationError as cause:  # for example NaN, which the store keeps as null
        logger.warning("a record of %s is skipped: %s", event.device, cause)
        return None
    costs.keep(sql, event.device, record, event.at_ms)
    return _measured(sql, event.device, record, now_ms) if record.job else None


def _answered(sql: Sql, device: str, answer: wire.CommandAnswer, now_ms: int) -> str | None:
    """Record that a device took a job, or refused it."""
    if not answer.id:
        return None
    return rows.take_answer(
        sql,
        device,
        answer.id,
        state="running" if answer.ok else "failed",
        reason="" if answer.ok else answer.message[:1000],
        settled_ms=None if answer.ok else now_ms,
    )


def _measured(sql: Sql, device: str, record: wire.MeasurementRecord, now_ms: int) -> str | None:
    """Record the state of a job as its device reports it; a settled job stays as it is."""
    is_changed = rows.take_result(
        sql,
        device,
        record.job,
        state=record.state,
        code=record.code[:64],
        reason=record.reason[:2000],
        settled_ms=None if record.state == "postponed" else now_ms,
        result=msgspec.json.encode(record).decode() if record.state == "done" else None,
    )
    return record.job if is_changed else None


def state_of(state: State, reason: str, expires_ms: int, now_ms: int) -> tuple[State, str]:
    """Return the state of a job at a time, and the reason for it.

    >>> state_of("waiting", "", 1000, 2000)
    ('expired', 'the device did not take the job in time')
    """
    if state == "waiting" and now_ms > expires_ms:
        return "expired", "the device did not take the job in time"
    if state in ("running", "postponed") and now_ms > expires_ms + GRACE_MS:
        last = f"; it last said: {reason}" if reason else ""
        return "expired", f"the device took the job, and no result came in time{last}"
    return state, reason


def _job(row: rows.JobRow, now_ms: int) -> Job:
    state, reason = state_of(cast("State", row.state), row.reason, row.expires_ms, now_ms)
    result = None if row.result is None else json.loads(row.result)
    return Job(**{**asdict(row), "state": state, "reason": reason, "result": result})
