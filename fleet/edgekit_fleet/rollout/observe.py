"""How the devices of a rollout fare: their update records and metric reports, read from the store."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from edgekit.core import wire
from edgekit.core.sketch import Histogram, Sketch
from edgekit_fleet.rollout import evidence
from edgekit_fleet.rollout.decide import Outcome
from edgekit_fleet.rollout.evidence import Baseline, Tally
from edgekit_fleet.rollout.standing import Standing, after_record, after_report
from edgekit_fleet.rollout.store import Participant, Rollout
from edgekit_fleet.store.database import Database

BASELINE_MS = 24 * 3600 * 1000
BASELINE_REPORTS = 200
_BATCH = 1000
_FIELDS = "outcome, step, reason, settled_ms"


def take_records(database: Database, now_ms: int) -> int:
    """Read the update records that came since the last time into the rollouts that they name.

    Each is taken once: the cursor moves in the same commit. Returns how many were read.
    """
    with database.transaction() as sql:
        cursor = sql.execute("SELECT event FROM rollout_cursor").fetchone()["event"]
        newest = sql.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
        if newest < cursor:  # the store forgot all of them and numbers anew
            cursor = 0
        rows = sql.execute(
            "SELECT id, device, body FROM event WHERE kind = 'update' AND id > ? ORDER BY id LIMIT ?",
            (cursor, _BATCH),
        ).fetchall()
        for row in rows:
            record = msgspec.convert(json.loads(row["body"]), type=wire.UpdateRecord)
            _take(sql, row["device"], record, now_ms)
        reached = rows[-1]["id"] if len(rows) == _BATCH else newest
        if reached != cursor:
            sql.execute("UPDATE rollout_cursor SET event = ?", (reached,))
    return len(rows)


def _take(sql: sqlite3.Connection, device: str, record: wire.UpdateRecord, now_ms: int) -> None:
    """A device that was brought back, or is told of another version, says nothing of this one."""
    row = sql.execute(
        f"SELECT {_FIELDS} FROM rollout_device d WHERE rollout = ? AND device = ? AND directed = 1"  # noqa: S608 - fixed names
        " AND EXISTS (SELECT 1 FROM rollout r WHERE r.id = d.rollout AND r.model = ? AND r.version = ?)",
        (record.rollout, device, record.model, record.version),
    ).fetchone()
    if row is not None:
        before = Standing(Outcome(row["outcome"]), *tuple(row)[1:])
        _write(sql, record.rollout, device, before, after_record(before, record, now_ms))


def take_reports(
    database: Database, rollout: Rollout, participants: Sequence[Participant], now_ms: int
) -> bool:
    """Settle the devices whose reported state says more than their records; return whether any did."""
    changed = []
    for one in participants:
        if one.is_directed:
            before = Standing(one.outcome, one.step, one.reason, one.settled_ms)
            after = after_report(
                before, runs_it=one.active == rollout.version, rejects_it=one.is_rejecting, now_ms=now_ms
            )
            if after != before:
                changed.append((one.device, before, after))
    if changed:
        with database.transaction() as sql:
            for device, before, after in changed:
                _write(sql, rollout.id, device, before, after)
    return bool(changed)


def _write(sql: sqlite3.Connection, rollout: str, device: str, before: Standing, after: Standing) -> None:
    sql.execute(
        "UPDATE rollout_device SET outcome=?, step=?, reason=?, settled_ms=? WHERE rollout=? AND device=?",
        (
            after.outcome.value,
            after.step,
            after.reason,
            after.settled_ms,
            rollout,
            device,
        ),
    )
    if after.outcome is not before.outcome:
        text = f"{device}: {after.outcome.value}{': ' if after.reason else ''}{after.reason}"
        sql.execute(
            "INSERT INTO rollout_log (rollout, at_ms, text) VALUES (?,?,?)", (rollout, after.settled_ms, text)
        )


@dataclass
class _Seen:
    """What was added up of one device in one rollout, up to report ``last``."""

    directed_ms: int
    before: Baseline
    after: Tally = field(default_factory=Tally)
    last: int = 0


class Observer:
    """Adds up metric reports; each is read once in the life of this object."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._stale: set[str] = set()
        self._seen: dict[str, dict[str, _Seen]] = {}

    def note(self, device: str) -> None:
        """Note that a device reported something; from any thread."""
        with self._lock:
            self._stale.add(device)

    def begin(self) -> set[str]:
        """Return the devices that reported since the last call."""
        with self._lock:
            stale, self._stale = self._stale, set()
        return stale

    def forget(self, kept: Sequence[str]) -> None:
        """Forget all rollouts but these."""
        self._seen = {rollout: seen for rollout, seen in self._seen.items() if rollout in kept}

    def measured(
        self, rollout: Rollout, participants: Sequence[Participant], stale: set[str]
    ) -> dict[str, tuple[Baseline, Tally]]:
        """Return what the old and the new version did, by device, of those that are directed."""
        seen = self._seen.setdefault(rollout.id, {})
        with self._database.read() as sql:
            for one in participants:
                if not one.is_directed:
                    continue
                known = seen.get(one.device)
                if known is None or known.directed_ms != one.directed_ms:
                    known = seen[one.device] = _Seen(one.directed_ms, _baseline(sql, rollout, one))
                    _add_new(sql, rollout, one.device, known)
                elif one.device in stale:
                    _add_new(sql, rollout, one.device, known)
        return {device: (known.before, known.after) for device, known in seen.items()}


def _baseline(sql: sqlite3.Connection, rollout: Rollout, one: Participant) -> Baseline:
    frames = errors = 0
    infer_ms = Histogram()
    if one.before_version and one.before_version != rollout.version:
        for row in sql.execute(
            "SELECT frames, errors, infer_ms FROM metric WHERE model = ? AND version = ? AND device = ?"
            " AND at_ms BETWEEN ? AND ? ORDER BY at_ms DESC LIMIT ?",
            (
                rollout.model,
                one.before_version,
                one.device,
                one.directed_ms - BASELINE_MS,
                one.directed_ms,
                BASELINE_REPORTS,
            ),
        ):
            frames, errors = frames + row["frames"], errors + row["errors"]
            if (histogram := _histogram(row["infer_ms"])) is not None:
                infer_ms.merge(histogram)
    return evidence.baseline(frames, errors, infer_ms)


def _add_new(sql: sqlite3.Connection, rollout: Rollout, device: str, known: _Seen) -> None:
    limit_ms = known.before.p99_ms * rollout.spec.guards.p99_ratio
    for row in sql.execute(
        "SELECT rowid AS number, frames, errors, infer_ms FROM metric"
        " WHERE model = ? AND version = ? AND device = ? AND at_ms >= ? AND rowid > ? ORDER BY rowid",
        (rollout.model, rollout.version, device, known.directed_ms, known.last),
    ):
        known.last = row["number"]
        infer_ms = _histogram(row["infer_ms"])
        known.after = evidence.add(known.after, row["frames"], row["errors"], infer_ms, limit_ms)


def _histogram(text: str | None) -> Histogram | None:
    return None if text is None else Histogram.from_wire(msgspec.json.decode(text, type=Sketch))
