"""What variants cost, kept for each kind of board and merged over its devices.

A device counts once in each figure, with its newest measurement; figures are medians over devices,
so that one that runs hot, or lies, decides nothing where there are others.
"""

from __future__ import annotations

import math
import re
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.core import wire
from edgekit_fleet.store.database import Database

MAX_PAGE = 200
MAX_PER_DEVICE = 2000
"""Figures that one device may add; with more, its oldest go."""
MAX_NAMES = 32
"""Names (model, version, variant) that are remembered for one content."""
MAX_DEVICES = 500
"""Devices that a median is taken over: those that measured last."""
_CONTENT = re.compile(r"[0-9a-f]{64}")
_FIGURES = ("p50_ms", "p95_ms", "p99_ms", "load_ms", "first_ms", "rss_mb")

_MIGRATIONS = [
    """
    CREATE TABLE cost_group (
      number INTEGER PRIMARY KEY, content TEXT NOT NULL, profile TEXT NOT NULL, board TEXT NOT NULL,
      backend TEXT NOT NULL, accelerator TEXT NOT NULL, precision TEXT NOT NULL,
      backend_version TEXT NOT NULL, threads INTEGER NOT NULL,
      UNIQUE (content, profile, board, backend, accelerator, backend_version, threads)
    );
    CREATE TABLE cost_sample (
      cost_group INTEGER NOT NULL REFERENCES cost_group (number), device TEXT NOT NULL,
      p50_ms REAL NOT NULL, p95_ms REAL NOT NULL, p99_ms REAL NOT NULL,
      load_ms REAL NOT NULL, first_ms REAL NOT NULL, rss_mb REAL NOT NULL, measured_ms INTEGER NOT NULL,
      PRIMARY KEY (cost_group, device)
    ) WITHOUT ROWID;
    CREATE INDEX cost_sample_device ON cost_sample (device, measured_ms);
    CREATE TABLE cost_name (
      content TEXT NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL,
      UNIQUE (content, model, version, variant)
    );
    CREATE INDEX cost_name_model ON cost_name (model, version);
    """,
]


@dataclass(frozen=True)
class BoardCost:
    """What one content costs on one kind of board; milliseconds and MB, medians over ``devices``.

    ``names`` says as which variants of which models it is known, the newest first.
    """

    number: int
    content: str
    profile: str
    board: str
    backend: str
    accelerator: str
    precision: str
    backend_version: str
    threads: int
    devices: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    load_ms: float
    first_ms: float
    rss_mb: float
    measured_unix_ms: int
    names: list[dict[str, str]]


class Costs:
    """The costs of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("costs", _MIGRATIONS)

    def page(
        self,
        *,
        model: str = "",
        version: str = "",
        profile: str = "",
        contents: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> list[BoardCost]:
        """Return costs, those that became known last first.

        Args:
            model: Only of variants that this model has, in any version.
            version: And only in this one.
            profile: Only on boards of this profile.
            contents: Only of variants with these hashes (``spec.variant_hash``).
            before: The number of the last one seen.
            limit: At most so many.
        """
        where = ["number < ?"]
        values: list[object] = [1 << 62 if before is None else before]
        if model or version:
            where.append(
                "content IN (SELECT content FROM cost_name WHERE (? = '' OR model = ?)"
                " AND (? = '' OR version = ?))"
            )
            values += [model, model, version, version]
        if profile:
            where.append("profile = ?")
            values.append(profile)
        if contents:
            where.append(f"content IN ({','.join('?' * len(contents))})")
            values += contents
        with self._database.read() as sql:
            groups = sql.execute(
                f"SELECT * FROM cost_group WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?",  # noqa: S608 - fixed
                (*values, min(max(limit, 1), MAX_PAGE + 1)),
            ).fetchall()
            return [_merged(sql, group) for group in groups]


def _merged(sql: sqlite3.Connection, group: sqlite3.Row) -> BoardCost:
    rows = sql.execute(
        "SELECT * FROM cost_sample WHERE cost_group = ? ORDER BY measured_ms DESC LIMIT ?",
        (group["number"], MAX_DEVICES),
    ).fetchall()
    names = sql.execute(
        "SELECT model, version, variant FROM cost_name WHERE content = ? ORDER BY rowid DESC",
        (group["content"],),
    ).fetchall()
    return BoardCost(
        **dict(group),
        **{name: statistics.median(row[name] for row in rows) for name in _FIGURES},
        devices=len(rows),
        measured_unix_ms=rows[0]["measured_ms"],
        names=[dict(name) for name in names],
    )


def keep(sql: sqlite3.Connection, device: str, record: wire.MeasurementRecord, at_ms: int) -> int:
    """Take a device's measurement in, in a transaction that is open; return how many figures it gave.

    What did not run, or gave other answers than the golden samples', has no cost.
    """
    board = record.board
    if record.state != "done" or board is None:
        return 0
    kept = 0
    for one in record.variants[: wire.MAX_MEASURED_VARIANTS]:
        if _is_cost(one) and 0 < record.threads < 1 << 16:
            group = _group(sql, one, board, record.threads)
            figures = [float(getattr(one, name) or 0.0) for name in _FIGURES]
            sql.execute(
                f"INSERT INTO cost_sample (cost_group, device, {', '.join(_FIGURES)}, measured_ms)"  # noqa: S608 - fixed
                " VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (cost_group, device) DO UPDATE SET"
                f" {', '.join(f'{name} = excluded.{name}' for name in _FIGURES)},"
                " measured_ms = excluded.measured_ms WHERE excluded.measured_ms >= measured_ms",
                (group, device, *figures, at_ms),
            )
            _name(sql, one, record)
            kept += 1
    if kept:
        _forget(sql, device)
    return kept


def _is_cost(one: wire.MeasuredVariant) -> bool:
    figures = [getattr(one, name) for name in _FIGURES]
    is_sound = all(figure is None or 0 <= figure < 1e9 for figure in figures if not _is_nan(figure))
    has_times = None not in (one.p50_ms, one.p95_ms, one.p99_ms) and not any(map(_is_nan, figures))
    is_right = one.error is None and one.golden_ok is not False
    return is_sound and has_times and is_right and _CONTENT.fullmatch(one.content) is not None


def _is_nan(figure: float | None) -> bool:
    return figure is not None and math.isnan(figure)


def _group(sql: sqlite3.Connection, one: wire.MeasuredVariant, board: wire.Board, threads: int) -> int:
    key = (
        *(one.content, board.profile[:64], board.board[:200], one.backend[:64], one.accelerator[:64]),
        *(one.backend_version[:64], threads),
    )
    sql.execute(
        "INSERT OR IGNORE INTO cost_group (content, profile, board, backend, accelerator, backend_version,"
        " threads, precision) VALUES (?,?,?,?,?,?,?,?)",
        (*key, one.precision[:64]),
    )
    row = sql.execute(
        "SELECT number FROM cost_group WHERE content = ? AND profile = ? AND board = ? AND backend = ?"
        " AND accelerator = ? AND backend_version = ? AND threads = ?",
        key,
    ).fetchone()
    return int(row["number"])


def _name(sql: sqlite3.Connection, one: wire.MeasuredVariant, record: wire.MeasurementRecord) -> None:
    sql.execute(
        "INSERT OR IGNORE INTO cost_name (content, model, version, variant) VALUES (?,?,?,?)",
        (one.content, record.model[:64], record.version[:32], one.id[:64]),
    )
    sql.execute(
        "DELETE FROM cost_name WHERE content = ? AND rowid NOT IN"
        " (SELECT rowid FROM cost_name WHERE content = ? ORDER BY rowid DESC LIMIT ?)",
        (one.content, one.content, MAX_NAMES),
    )


def _forget(sql: sqlite3.Connection, device: str) -> None:
    """Forget a device's oldest figures beyond its share, and what then has no figure at all."""
    gone = sql.execute(
        "DELETE FROM cost_sample WHERE device = ? AND cost_group IN (SELECT cost_group FROM cost_sample"
        " WHERE device = ? ORDER BY measured_ms DESC, cost_group DESC LIMIT -1 OFFSET ?)",
        (device, device, MAX_PER_DEVICE),
    ).rowcount
    if gone:
        sql.execute("DELETE FROM cost_group WHERE number NOT IN (SELECT cost_group FROM cost_sample)")
        sql.execute("DELETE FROM cost_name WHERE content NOT IN (SELECT content FROM cost_group)")
