"""Rollouts and their devices in the database: rows in, rows out, no decisions."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit_fleet.rollout.decide import Outcome
from edgekit_fleet.rollout.machine import Event, State, step
from edgekit_fleet.rollout.plan import Spec
from edgekit_fleet.store.database import Database

MAX_LOG = 500
"""Lines that a rollout's log keeps."""

_MIGRATIONS = [
    """
    CREATE TABLE rollout (
      number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL, version TEXT NOT NULL,
      state TEXT NOT NULL, wave INTEGER NOT NULL, wave_since_ms INTEGER NOT NULL, reason TEXT NOT NULL,
      spec TEXT NOT NULL, created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL
    );
    CREATE INDEX rollout_model ON rollout (model, number);
    CREATE UNIQUE INDEX rollout_open ON rollout (model) WHERE state IN ('draft', 'running', 'paused');
    CREATE TABLE rollout_device (
      rollout TEXT NOT NULL REFERENCES rollout (id), device TEXT NOT NULL, wave INTEGER NOT NULL,
      directed INTEGER NOT NULL DEFAULT 0, directed_ms INTEGER NOT NULL DEFAULT 0,
      before_version TEXT NOT NULL DEFAULT '', before_desired TEXT,
      outcome TEXT NOT NULL DEFAULT 'waiting', step TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
      settled_ms INTEGER NOT NULL DEFAULT 0, restored_ms INTEGER NOT NULL DEFAULT 0,
      PRIMARY KEY (rollout, device)
    ) WITHOUT ROWID;
    CREATE INDEX rollout_device_directed ON rollout_device (rollout) WHERE directed = 1;
    CREATE TABLE rollout_log (
      id INTEGER PRIMARY KEY, rollout TEXT NOT NULL, at_ms INTEGER NOT NULL, text TEXT NOT NULL
    );
    CREATE INDEX rollout_log_rollout ON rollout_log (rollout, id);
    CREATE TABLE rollout_cursor (one INTEGER PRIMARY KEY CHECK (one = 1), event INTEGER NOT NULL);
    INSERT INTO rollout_cursor VALUES (1, 0);
    """,
]


@dataclass(frozen=True)
class Rollout:
    """One rollout's row."""

    number: int
    id: str
    model: str
    version: str
    state: State
    wave: int
    wave_since_ms: int
    reason: str
    spec: Spec
    created_ms: int
    updated_ms: int


@dataclass(frozen=True)
class Participant:
    """One device of a rollout: its row, and what the fleet knows of the device.

    Args:
        is_directed: Its desired state names this rollout's version, by this rollout.
        before_version: What it ran when it was directed.
        before_desired: What was desired of it then, None for nothing.
        step: The last event of its update machine in this rollout.
        active: The version it reports.
        is_rejecting: It reports that it will not try this version any more.
    """

    device: str
    wave: int
    is_directed: bool
    directed_ms: int
    before_version: str
    before_desired: wire.DesiredModel | None
    outcome: Outcome
    step: str
    reason: str
    settled_ms: int
    restored_ms: int
    is_online: bool
    is_revoked: bool
    active: str
    is_rejecting: bool


class RolloutStore:
    """The rollouts of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.migrate("rollouts", _MIGRATIONS)

    def create(self, spec: Spec, waves: dict[str, int], now_ms: int, rollout_id: str) -> Rollout:
        """Add a rollout as a draft, with the wave of each device.

        Raises:
            UsageError: Another rollout of this model is not over.
        """
        with self.database.transaction() as sql:
            open_one = sql.execute(
                "SELECT id, version, state FROM rollout"
                " WHERE model = ? AND state IN ('draft', 'running', 'paused')",
                (spec.model,),
            ).fetchone()
            if open_one is not None:
                raise UsageError(
                    f"{spec.model}: rollout {open_one['id']} of {open_one['version']} is {open_one['state']}",
                    hint=f"wait for it, or end it: edgekit-fleet rollout abort {open_one['id']}",
                )
            text = msgspec.json.encode(spec).decode()
            sql.execute(
                "INSERT INTO rollout (id, model, version, state, wave, wave_since_ms, reason, spec,"
                " created_ms, updated_ms) VALUES (?,?,?,'draft',0,?,'',?,?,?)",
                (rollout_id, spec.model, spec.version, now_ms, text, now_ms, now_ms),
            )
            self.join(sql, rollout_id, waves.items())
            self.log(sql, rollout_id, now_ms, f"created for {len(waves)} devices in {len(spec.waves)} waves")
            row = sql.execute("SELECT * FROM rollout WHERE id = ?", (rollout_id,)).fetchone()
        return _rollout(row)

    def join(self, sql: sqlite3.Connection, rollout: str, members: Iterable[tuple[str, int]]) -> None:
        """Add devices to a rollout; those in it stay as they are."""
        sql.executemany(
            "INSERT OR IGNORE INTO rollout_device (rollout, device, wave) VALUES (?,?,?)",
            [(rollout, device, wave) for device, wave in members],
        )

    def move(self, rollout: str, event: Event, reason: str, now_ms: int) -> Rollout:
        """Change a rollout's state by an event, and log it.

        Raises:
            UsageError: There is no such rollout, or the event is not possible in its state.
        """
        with self.database.transaction() as sql:
            row = sql.execute("SELECT * FROM rollout WHERE id = ?", (rollout,)).fetchone()
            if row is None:
                raise UsageError(f"no rollout {rollout[:80]!r}", hint="edgekit-fleet rollout list")
            state = step(State(row["state"]), event)
            since = now_ms if state is State.RUNNING else row["wave_since_ms"]
            sql.execute(
                "UPDATE rollout SET state=?, reason=?, wave_since_ms=?, updated_ms=? WHERE id=?",
                (state.value, reason, since, now_ms, rollout),
            )
            self.log(sql, rollout, now_ms, f"{state.value}{': ' if reason else ''}{reason}")
            changed = sql.execute("SELECT * FROM rollout WHERE id = ?", (rollout,)).fetchone()
        return _rollout(changed)

    def advance(self, sql: sqlite3.Connection, rollout: str, wave: int, now_ms: int) -> None:
        """Begin a wave."""
        sql.execute(
            "UPDATE rollout SET wave=?, wave_since_ms=?, updated_ms=? WHERE id=?",
            (wave, now_ms, now_ms, rollout),
        )
        self.log(sql, rollout, now_ms, f"wave {wave + 1} begins")

    def log(self, sql: sqlite3.Connection, rollout: str, now_ms: int, text: str) -> None:
        """Note what happened."""
        sql.execute("INSERT INTO rollout_log (rollout, at_ms, text) VALUES (?,?,?)", (rollout, now_ms, text))
        sql.execute(
            "DELETE FROM rollout_log WHERE rollout = ? AND id <="
            " (SELECT id FROM rollout_log WHERE rollout = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (rollout, rollout, MAX_LOG),
        )

    def get(self, rollout: str) -> Rollout | None:
        """Return one rollout."""
        with self.database.read() as sql:
            row = sql.execute("SELECT * FROM rollout WHERE id = ?", (rollout,)).fetchone()
        return None if row is None else _rollout(row)

    def page(
        self, *, model: str = "", state: str = "", before: int | None = None, limit: int = 50
    ) -> list[Rollout]:
        """Return rollouts, the newest first; ``before`` is the number of the last one seen."""
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM rollout WHERE number < ? AND (? = '' OR model = ?) AND (? = '' OR state = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, model, model, state, state, limit),
            ).fetchall()
        return [_rollout(row) for row in rows]

    def at_work(self) -> list[Rollout]:
        """Return the rollouts that may have something to do, the oldest first.

        Those under way, those with devices to bring back, and of each model the newest that is done,
        which devices join that are enrolled later.
        """
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM rollout r WHERE state IN ('running', 'paused')"
                " OR (state IN ('halted', 'aborted') AND EXISTS"
                "  (SELECT 1 FROM rollout_device d WHERE d.rollout = r.id AND d.directed = 1))"
                " OR number IN (SELECT max(number) FROM rollout WHERE state = 'done' GROUP BY model)"
                " ORDER BY number"
            ).fetchall()
        return [_rollout(row) for row in rows]

    def participants(self, rollout: Rollout) -> list[Participant]:
        """Return a rollout's devices, by wave and id."""
        rejected = f'"{rollout.model}@{rollout.version}":'
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT d.*, coalesce(v.online, 0) AS online, coalesce(v.state, '') AS device_state,"
                " coalesce(m.active, '') AS active, instr(coalesce(v.reported, ''), ?) > 0 AS rejecting"
                " FROM rollout_device d LEFT JOIN device v ON v.id = d.device"
                " LEFT JOIN device_model m ON m.device = d.device AND m.model = ?"
                " WHERE d.rollout = ? ORDER BY d.wave, d.device",
                (rejected, rollout.model, rollout.id),
            ).fetchall()
        return [_participant(row) for row in rows]

    def candidates(self, spec: Spec, named: Sequence[str]) -> list[tuple[str, bool]]:
        """Return (device, whether online) of those a rollout is for: named, or running the model."""
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT id, online, EXISTS"
                " (SELECT 1 FROM device_model WHERE device = device.id AND model = ?) AS runs FROM device"
                " WHERE state = 'approved' ORDER BY id",
                (spec.model,),
            ).fetchall()
        wanted = set(named)
        chosen = (row for row in rows if row["id"] in wanted or (row["runs"] and not spec.devices))
        return [(row["id"], bool(row["online"])) for row in chosen]

    def devices(self, rollout: str) -> dict[str, bool]:
        """Return the devices of a rollout, and whether each was directed."""
        with self.database.read() as sql:
            rows = sql.execute("SELECT device, directed FROM rollout_device WHERE rollout = ?", (rollout,))
            return {row["device"]: bool(row["directed"]) for row in rows}

    def lines(self, rollout: str, limit: int = 100) -> list[dict[str, object]]:
        """Return the last lines of a rollout's log, in order."""
        with self.database.read() as sql:
            rows = sql.execute(
                "SELECT at_ms, text FROM rollout_log WHERE rollout = ? ORDER BY id DESC LIMIT ?",
                (rollout, limit),
            ).fetchall()
        return [{"unix_ms": row["at_ms"], "text": row["text"]} for row in reversed(rows)]


def new_id(number_of_bytes: int = 4) -> str:
    """Return an id for a rollout: random, so that one restored from a backup meets no older reports."""
    return f"r-{secrets.token_hex(number_of_bytes)}"


def _rollout(row: sqlite3.Row) -> Rollout:
    return Rollout(
        row["number"],
        row["id"],
        row["model"],
        row["version"],
        State(row["state"]),
        row["wave"],
        row["wave_since_ms"],
        row["reason"],
        msgspec.json.decode(row["spec"], type=Spec),
        row["created_ms"],
        row["updated_ms"],
    )


def _participant(row: sqlite3.Row) -> Participant:
    before = row["before_desired"]
    return Participant(
        device=row["device"],
        wave=row["wave"],
        is_directed=bool(row["directed"]),
        directed_ms=row["directed_ms"],
        before_version=row["before_version"],
        before_desired=None if before is None else msgspec.json.decode(before, type=wire.DesiredModel),
        outcome=Outcome(row["outcome"]),
        step=row["step"],
        reason=row["reason"],
        settled_ms=row["settled_ms"],
        restored_ms=row["restored_ms"],
        is_online=bool(row["online"]),
        is_revoked=row["device_state"] == "revoked",
        active=row["active"],
        is_rejecting=bool(row["rejecting"]),
    )
