"""Commands to devices, and their answers."""

from __future__ import annotations

import json
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.core import wire
from edgekit_fleet.store.database import Database

KEPT_PER_DEVICE = 200

_MIGRATIONS = [
    """
    CREATE TABLE command (
      id TEXT PRIMARY KEY, device TEXT NOT NULL, kind TEXT NOT NULL, args TEXT NOT NULL,
      created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
      answered_ms INTEGER, ok INTEGER, message TEXT NOT NULL DEFAULT ''
    );
    CREATE INDEX command_device ON command (device, created_ms);
    CREATE INDEX command_open ON command (expires_ms) WHERE answered_ms IS NULL;
    """,
]


@dataclass(frozen=True)
class CommandRow:
    """A command and its state."""

    id: str
    device: str
    kind: str
    args: dict[str, Any]
    created_ms: int
    expires_ms: int
    state: Literal["waiting", "done", "failed", "expired"]
    message: str

    def to_wire(self) -> wire.Command:
        """Return the message to the device."""
        return wire.Command(self.id, self.kind, self.expires_ms, self.args)


class Commands:
    """The commands of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("commands", _MIGRATIONS)

    def create(
        self, device: str, kind: str, args: dict[str, Any], now_ms: int, expires_ms: int
    ) -> CommandRow:
        """Record a new command; the oldest commands of the device beyond 200 are deleted."""
        number = secrets.token_hex(8)
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO command (id, device, kind, args, created_ms, expires_ms) VALUES (?,?,?,?,?,?)",
                (number, device, kind, json.dumps(args), now_ms, expires_ms),
            )
            sql.execute(
                "DELETE FROM command WHERE device = ? AND id NOT IN (SELECT id FROM command"
                " WHERE device = ? ORDER BY created_ms DESC, rowid DESC LIMIT ?)",
                (device, device, KEPT_PER_DEVICE),
            )
        return CommandRow(number, device, kind, args, now_ms, expires_ms, "waiting", "")

    def answer(self, device: str, answer: wire.CommandAnswer, now_ms: int) -> None:
        """Record a device's answer; the first one counts."""
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE command SET answered_ms = ?, ok = ?, message = ?"
                " WHERE id = ? AND device = ? AND answered_ms IS NULL",
                (now_ms, answer.ok, answer.message[:1000], answer.id, device),
            )

    def waiting(self, now_ms: int, device: str = "", limit: int = 1000) -> list[CommandRow]:
        """Return commands without an answer that have not expired, the oldest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM command WHERE answered_ms IS NULL AND expires_ms > ?"
                " AND (? = '' OR device = ?) ORDER BY created_ms, rowid LIMIT ?",
                (now_ms, device, device, limit),
            ).fetchall()
        return [_command(row, now_ms) for row in rows]

    def of_device(self, device: str, now_ms: int, limit: int = 50) -> list[CommandRow]:
        """Return a device's commands, the newest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM command WHERE device = ? ORDER BY created_ms DESC, rowid DESC LIMIT ?",
                (device, limit),
            ).fetchall()
        return [_command(row, now_ms) for row in rows]


def _command(row: sqlite3.Row, now_ms: int) -> CommandRow:
    state: Literal["waiting", "done", "failed", "expired"]
    if row["answered_ms"] is not None:
        state = "done" if row["ok"] else "failed"
    else:
        state = "waiting" if row["expires_ms"] > now_ms else "expired"
    return CommandRow(
        id=row["id"],
        device=row["device"],
        kind=row["kind"],
        args=json.loads(row["args"]),
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        state=state,
        message=row["message"],
    )
