"""Rollouts and their devices: rows in, rows out, no decisions. ``rollout.records`` maps them.

Functions that take ``sql`` run in the transaction that their caller opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit_fleet.store.database import Database, Sql

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
class RolloutRow:
    """One rollout; ``state`` is its word, ``spec`` the JSON of what was asked for."""

    number: int
    id: str
    model: str
    version: str
    state: str
    wave: int
    wave_since_ms: int
    reason: str
    spec: str
    created_ms: int
    updated_ms: int


@dataclass(frozen=True)
class StandingRow:
    """How a device stands in a rollout: its outcome's word, and when that was known (0: not yet)."""

    outcome: str
    step: str
    reason: str
    settled_ms: int


@dataclass(frozen=True)
class ParticipantRow:
    """One device of a rollout, and what the fleet knows of the device.

    Args:
        is_directed: Its desired state names this rollout's version, by this rollout.
        before_version: The version it ran when it was directed.
        before_desired: The JSON of its desired model then; None if there was none.
        active: The version it reports.
        is_rejecting: It reports that it will not try this version again.
    """

    device: str
    wave: int
    is_directed: bool
    directed_ms: int
    before_version: str
    before_desired: str | None
    standing: StandingRow
    restored_ms: int
    is_online: bool
    is_revoked: bool
    active: str
    is_rejecting: bool


class Rollouts:
    """Reads the rollouts of one database; times are Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("rollouts", _MIGRATIONS)

    def get(self, rollout: str) -> RolloutRow | None:
        """Return one rollout."""
        with self._database.read() as sql:
            return get(sql, rollout)

    def page(
        self, *, model: str = "", state: str = "", before: int | None = None, limit: int = 50
    ) -> list[RolloutRow]:
        """Return rollouts, the newest first; ``before`` is the number of the last one shown."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM rollout WHERE number < ? AND (? = '' OR model = ?) AND (? = '' OR state = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, model, model, state, state, limit),
            ).fetchall()
        return [RolloutRow(*row) for row in rows]

    def at_work(self) -> list[RolloutRow]:
        """Return the rollouts that may have something to do, the oldest first.

        These are: current rollouts, rollouts with devices to restore, and of each model the newest that is
        done, because devices that enrol later join it.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM rollout r WHERE state IN ('running', 'paused')"
                " OR (state IN ('halted', 'aborted') AND EXISTS"
                "  (SELECT 1 FROM rollout_device d WHERE d.rollout = r.id AND d.directed = 1))"
                " OR number IN (SELECT max(number) FROM rollout WHERE state = 'done' GROUP BY model)"
                " ORDER BY number"
            ).fetchall()
        return [RolloutRow(*row) for row in rows]

    def participants(self, rollout: str, model: str, version: str) -> list[ParticipantRow]:
        """Return a rollout's devices, by wave and id; ``model`` and ``version`` are the rollout's."""
        rejected = f'"{model}@{version}":'
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT d.*, coalesce(v.online, 0) AS online, coalesce(v.state, '') AS device_state,"
                " coalesce(m.active, '') AS active, instr(coalesce(v.reported, ''), ?) > 0 AS rejecting"
                " FROM rollout_device d LEFT JOIN device v ON v.id = d.device"
                " LEFT JOIN device_model m ON m.device = d.device AND m.model = ?"
                " WHERE d.rollout = ? ORDER BY d.wave, d.device",
                (rejected, model, rollout),
            ).fetchall()
        return [_participant(row) for row in rows]

    def candidates(self, model: str, named: Sequence[str], *, only_named: bool) -> list[tuple[str, bool]]:
        """Return (device, whether online) of approved devices that are named or run a model.

        Args:
            model: A model's name.
            named: Ids of devices.
            only_named: Leave out devices that run the model but are not named.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT id, online, EXISTS"
                " (SELECT 1 FROM device_model WHERE device = device.id AND model = ?) AS runs FROM device"
                " WHERE state = 'approved' ORDER BY id",
                (model,),
            ).fetchall()
        ids = set(named)
        chosen = (row for row in rows if row["id"] in ids or (row["runs"] and not only_named))
        return [(row["id"], bool(row["online"])) for row in chosen]

    def counts(self) -> dict[str, int]:
        """Return how many rollouts are in each state."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT state, count(*) AS n FROM rollout GROUP BY state")
            return {row["state"]: row["n"] for row in rows}

    def outcomes(self) -> dict[tuple[str, str, str, str], int]:
        """Return the devices of rollouts that are not over, by (rollout, model, version, outcome)."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT r.id, r.model, r.version, d.outcome, count(*) AS n FROM rollout r"
                " JOIN rollout_device d ON d.rollout = r.id WHERE r.state IN ('draft', 'running', 'paused')"
                " GROUP BY r.id, d.outcome"
            )
            return {(row[0], row[1], row[2], row[3]): row["n"] for row in rows}

    def tally(self, rollout: str) -> dict[str, int]:
        """Return the number of a rollout's devices by outcome."""
        query = "SELECT outcome, count(*) FROM rollout_device WHERE rollout = ? GROUP BY outcome"
        with self._database.read() as sql:
            return dict(sql.execute(query, (rollout,)).fetchall())

    def running(self, model: str) -> dict[str, str]:
        """Return the active version of a model, by device."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT device, active FROM device_model WHERE model = ?", (model,))
            return {row["device"]: row["active"] for row in rows}

    def births(self) -> dict[str, str]:
        """Return the JSON of every device's last birth, by device."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT id, birth FROM device WHERE birth IS NOT NULL")
            return {row["id"]: row["birth"] for row in rows}

    def devices(self, rollout: str) -> dict[str, bool]:
        """Return the devices of a rollout, and whether each was directed."""
        with self._database.read() as sql:
            rows = sql.execute("SELECT device, directed FROM rollout_device WHERE rollout = ?", (rollout,))
            return {row["device"]: bool(row["directed"]) for row in rows}

    def lines(self, rollout: str, limit: int = 100) -> list[dict[str, object]]:
        """Return the last lines of a rollout's log, in order."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT at_ms, text FROM rollout_log WHERE rollout = ? ORDER BY id DESC LIMIT ?",
                (rollout, limit),
            ).fetchall()
        return [{"unix_ms": row["at_ms"], "text": row["text"]} for row in reversed(rows)]


def get(sql: Sql, rollout: str) -> RolloutRow | None:
    """Return one rollout as the open transaction sees it."""
    row = sql.execute("SELECT * FROM rollout WHERE id = ?", (rollout,)).fetchone()
    return None if row is None else RolloutRow(*row)


def open_of(sql: Sql, model: str) -> RolloutRow | None:
    """Return the rollout of a model that is not over."""
    row = sql.execute(
        "SELECT * FROM rollout WHERE model = ? AND state IN ('draft', 'running', 'paused')", (model,)
    ).fetchone()
    return None if row is None else RolloutRow(*row)


def add(sql: Sql, rollout: str, model: str, version: str, spec: str, now_ms: int) -> None:
    """Insert a rollout as a draft; ``spec`` is the JSON of what was asked for."""
    sql.execute(
        "INSERT INTO rollout (id, model, version, state, wave, wave_since_ms, reason, spec,"
        " created_ms, updated_ms) VALUES (?,?,?,'draft',0,?,'',?,?,?)",
        (rollout, model, version, now_ms, spec, now_ms, now_ms),
    )


def join(sql: Sql, rollout: str, waves: Iterable[tuple[str, int]]) -> None:
    """Add (device, wave) to a rollout; devices that are in it already stay as they are."""
    sql.executemany(
        "INSERT OR IGNORE INTO rollout_device (rollout, device, wave) VALUES (?,?,?)",
        [(rollout, device, wave) for device, wave in waves],
    )


def forget(sql: Sql, device: str) -> list[str]:
    """Take a device out of the rollouts that a new one in its name may join; return those not over."""
    rows = sql.execute(
        "DELETE FROM rollout_device WHERE device = ? AND rollout IN"
        " (SELECT id FROM rollout WHERE state IN ('draft', 'running', 'paused', 'done')) RETURNING"
        " rollout, (SELECT state FROM rollout r WHERE r.id = rollout) AS state",
        (device,),
    ).fetchall()
    return [row["rollout"] for row in rows if row["state"] != "done"]


def set_state(sql: Sql, rollout: str, state: str, reason: str, wave_since_ms: int, now_ms: int) -> None:
    """Change a rollout's state."""
    sql.execute(
        "UPDATE rollout SET state=?, reason=?, wave_since_ms=?, updated_ms=? WHERE id=?",
        (state, reason, wave_since_ms, now_ms, rollout),
    )


def set_wave(sql: Sql, rollout: str, wave: int, now_ms: int) -> None:
    """Begin a wave of a rollout now."""
    sql.execute(
        "UPDATE rollout SET wave=?, wave_since_ms=?, updated_ms=? WHERE id=?", (wave, now_ms, now_ms, rollout)
    )


def log(sql: Sql, rollout: str, now_ms: int, text: str) -> None:
    """Add a line to a rollout's log; the oldest beyond 500 are deleted."""
    sql.execute("INSERT INTO rollout_log (rollout, at_ms, text) VALUES (?,?,?)", (rollout, now_ms, text))
    sql.execute(
        "DELETE FROM rollout_log WHERE rollout = ? AND id <="
        " (SELECT id FROM rollout_log WHERE rollout = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (rollout, rollout, MAX_LOG),
    )


def set_directed(
    sql: Sql, rollout: str, device: str, *, before_version: str, before_desired: str | None, now_ms: int
) -> None:
    """Record that a device was directed to the rollout's version, and what it ran before."""
    sql.execute(
        "UPDATE rollout_device SET directed=1, directed_ms=?, before_version=?, before_desired=?"
        " WHERE rollout=? AND device=?",
        (now_ms, before_version, before_desired, rollout, device),
    )


def set_restored(sql: Sql, rollout: str, device: str, now_ms: int) -> None:
    """Record that a device was given back what it ran before."""
    sql.execute(
        "UPDATE rollout_device SET directed=0, restored_ms=? WHERE rollout=? AND device=?",
        (now_ms, rollout, device),
    )


def standing_of_directed(
    sql: Sql, rollout: str, device: str, *, model: str, version: str
) -> StandingRow | None:
    """Return how a directed device stands in a rollout of this version; None where it is not directed."""
    row = sql.execute(
        "SELECT outcome, step, reason, settled_ms FROM rollout_device d"
        " WHERE rollout = ? AND device = ? AND directed = 1"
        " AND EXISTS (SELECT 1 FROM rollout r WHERE r.id = d.rollout AND r.model = ? AND r.version = ?)",
        (rollout, device, model, version),
    ).fetchone()
    return None if row is None else StandingRow(*row)


def set_standing(sql: Sql, rollout: str, device: str, standing: StandingRow) -> None:
    """Record how a device stands in a rollout."""
    sql.execute(
        "UPDATE rollout_device SET outcome=?, step=?, reason=?, settled_ms=? WHERE rollout=? AND device=?",
        (standing.outcome, standing.step, standing.reason, standing.settled_ms, rollout, device),
    )


def _participant(row: sqlite3.Row) -> ParticipantRow:
    return ParticipantRow(
        device=row["device"],
        wave=row["wave"],
        is_directed=bool(row["directed"]),
        directed_ms=row["directed_ms"],
        before_version=row["before_version"],
        before_desired=row["before_desired"],
        standing=StandingRow(row["outcome"], row["step"], row["reason"], row["settled_ms"]),
        restored_ms=row["restored_ms"],
        is_online=bool(row["online"]),
        is_revoked=row["device_state"] != "approved",  # or it is not there any more
        active=row["active"],
        is_rejecting=bool(row["rejecting"]),
    )
