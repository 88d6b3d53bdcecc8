"""Reading the events that devices sent, each once: a cursor moves in the reader's own commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit_fleet.store.database import Sql

Cursor = Literal["rollout_cursor", "measuring_cursor"]
"""The table that remembers how far a reader has come."""


@dataclass(frozen=True)
class EventRow:
    """One event; ``body`` is its JSON, ``at_ms`` when the device recorded it."""

    id: int
    device: str
    at_ms: int
    kind: str
    body: str


def take(sql: Sql, cursor: Cursor, kinds: Sequence[str], limit: int) -> list[EventRow]:
    """Return events that this reader has not had yet, in order, and move its cursor behind them.

    Args:
        sql: The transaction in which the reader stores what it makes of the events.
        cursor: The reader.
        kinds: Kinds of events to return; others are skipped.
        limit: At most this many.
    """
    reached = sql.execute(f"SELECT event FROM {cursor}").fetchone()["event"]  # noqa: S608 - fixed names
    newest = _newest(sql)
    start = 0 if newest < reached else reached  # the store deleted every event, and numbers start again
    rows = sql.execute(
        "SELECT id, device, at_ms, kind, body FROM event WHERE id > ?"  # noqa: S608 - only marks
        f" AND kind IN ({','.join('?' * len(kinds))}) ORDER BY id LIMIT ?",
        (start, *kinds, limit),
    ).fetchall()
    now_at = rows[-1]["id"] if len(rows) == limit else newest
    if now_at != reached:
        sql.execute(f"UPDATE {cursor} SET event = ?", (now_at,))  # noqa: S608 - fixed names
    return [EventRow(*row) for row in rows]


def is_behind(sql: Sql, cursor: Cursor) -> bool:
    """Say whether there are events that this reader has not had yet."""
    reached = sql.execute(f"SELECT event FROM {cursor}").fetchone()["event"]  # noqa: S608 - fixed names
    return bool(_newest(sql) > reached)


def _newest(sql: Sql) -> int:
    return int(sql.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0])
