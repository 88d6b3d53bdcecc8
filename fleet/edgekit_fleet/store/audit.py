"""The audit log: who changed what, from where, and what it was before and after.

Entries are only ever added; the database itself refuses to change or delete one. Each carries the SHA-256
of its content and of the entry before it, so that an exported log shows whether an entry was changed,
removed or inserted. What is cut off at the end shows only beside a hash that was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database

FIRST = "0" * 64
"""Stands for the hash before the first entry."""
MAX_BYTES = 8192
"""Of ``before`` and ``after``, as JSON: of a longer document the log keeps size and SHA-256."""

_MIGRATIONS = [
    """
    CREATE TABLE audit (
      number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, who TEXT NOT NULL, origin TEXT NOT NULL,
      action TEXT NOT NULL, subject TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL,
      hash TEXT NOT NULL
    );
    CREATE INDEX audit_subject ON audit (subject, number);
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    """,
]


@dataclass(frozen=True)
class Actor:
    """Who changes something: a token, a device, the fleet itself; ``origin`` is its address."""

    who: str
    origin: str = ""


FLEET = Actor("the fleet manager")
LOCAL = Actor("a command on the fleet's data folder", "this machine")


@dataclass(frozen=True)
class Entry:
    """One change; ``before`` and ``after`` are None where there was, or is, nothing."""

    number: int
    at_ms: int
    who: str
    origin: str
    action: str
    subject: str
    before: Any
    after: Any
    hash: str


class Audit:
    """The audit log of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("audit", _MIGRATIONS)

    def record(self, by: Actor, action: str, subject: str, *, before: Any = None, after: Any = None) -> None:
        """Add an entry; call it in the transaction of the change, so that there is none without the other.

        Args:
            by: Who changes it.
            action: What is done, ``thing.verb``.
            subject: The id of the thing.
            before: What it was, for JSON.
            after: What it is now.
        """
        with self._database.transaction() as sql:
            last = sql.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
            number, previous = (last["number"] + 1, last["hash"]) if last else (1, FIRST)
            before, after = _bounded(before), _bounded(after)
            entry = Entry(number, unix_ms(), by.who, by.origin, action, subject, before, after, "")
            fields = {**asdict(entry), "before": _json(before), "after": _json(after)}
            fields["hash"] = chained(entry, previous)
            sql.execute("INSERT INTO audit VALUES (?,?,?,?,?,?,?,?,?)", tuple(fields.values()))

    def page(self, *, subject: str = "", before: int | None = None, limit: int = 50) -> list[Entry]:
        """Return entries, the newest first; ``before`` is the number of the last one shown."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM audit WHERE number < ? AND (? = '' OR subject = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, subject, subject, limit),
            ).fetchall()
        return [_entry(row) for row in rows]

    def after(self, number: int, limit: int) -> list[Entry]:
        """Return the entries after one, the oldest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM audit WHERE number > ? ORDER BY number LIMIT ?", (number, limit)
            ).fetchall()
        return [_entry(row) for row in rows]

    def count(self) -> int:
        """Return the number of entries."""
        with self._database.read() as sql:
            return int(sql.execute("SELECT coalesce(max(number), 0) FROM audit").fetchone()[0])


def chained(entry: Entry, previous: str) -> str:
    """Return the hash of an entry that follows one with the hash ``previous``, hexadecimal."""
    content = {name: value for name, value in asdict(entry).items() if name != "hash"}
    return hashlib.sha256(f"{previous}{_json(content)}".encode()).hexdigest()


def first_broken(entries: Iterable[Entry]) -> int | None:
    """Return the number of the first entry that does not follow the one before; None if all do."""
    previous = FIRST
    for position, entry in enumerate(entries, start=1):
        if entry.number != position or entry.hash != chained(entry, previous):
            return position
        previous = entry.hash
    return None


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _bounded(value: Any) -> Any:
    text = _json(value)
    if len(text) <= MAX_BYTES:
        return value
    return {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _entry(row: Any) -> Entry:
    fields = dict(row)
    return Entry(**{**fields, "before": json.loads(fields["before"]), "after": json.loads(fields["after"])})
