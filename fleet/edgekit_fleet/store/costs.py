"""What variants cost on each kind of board: samples of devices, grouped. ``measuring.costs`` merges them.

Functions that take ``sql`` run in the transaction that their caller opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit_fleet.store.database import Database, Sql

MAX_PAGE = 200
MAX_PER_DEVICE = 2000
"""Samples that one device may have; beyond it, its oldest are deleted."""
MAX_NAMES = 32
"""Names (model, version, variant) that are remembered for one content."""
MAX_DEVICES = 500
"""Samples returned for one group: those of the devices that measured last."""
FIGURES = ("p50_ms", "p95_ms", "p99_ms", "load_ms", "first_ms", "rss_mb")
"""Columns of a sample."""

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
class Group:
    """One content run one way on one kind of board; samples of a group may be compared."""

    content: str
    profile: str
    board: str
    backend: str
    accelerator: str
    precision: str
    backend_version: str
    threads: int


@dataclass(frozen=True)
class CostRow:
    """One group with its samples.

    Args:
        number: The group's; groups that became known later have greater numbers.
        samples: The figures of each device, by the names in ``FIGURES``, the newest first.
        measured_ms: When the newest of them was measured, Unix time.
        names: Model, version and variant that the content is known as, the newest first.
    """

    number: int
    group: Group
    samples: list[dict[str, float]]
    measured_ms: int
    names: list[dict[str, str]]


class Costs:
    """Reads the costs of one database."""

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
    ) -> list[CostRow]:
        """Return groups with their samples, those that became known last first.

        Args:
            model: Only variants that this model has, in any version.
            version: And only in this version.
            profile: Only boards of this profile.
            contents: Only variants with these hashes (``spec.variant_hash``).
            before: The number of the last group on the page before.
            limit: At most this many.
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
            return [_cost(sql, **dict(group)) for group in groups]


def add_sample(sql: Sql, group: Group, device: str, figures: Mapping[str, float], at_ms: int) -> None:
    """Record what a device measured, unless a newer measurement of the device is in the group."""
    sql.execute(
        f"INSERT INTO cost_sample (cost_group, device, {', '.join(FIGURES)}, measured_ms)"  # noqa: S608 - fixed
        " VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (cost_group, device) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in FIGURES)},"
        " measured_ms = excluded.measured_ms WHERE excluded.measured_ms >= measured_ms",
        (_number(sql, group), device, *(figures[name] for name in FIGURES), at_ms),
    )


def add_name(sql: Sql, content: str, model: str, version: str, variant: str) -> None:
    """Record which variant of which model has a content; the oldest names beyond 32 are deleted."""
    sql.execute(
        "INSERT OR IGNORE INTO cost_name (content, model, version, variant) VALUES (?,?,?,?)",
        (content, model, version, variant),
    )
    sql.execute(
        "DELETE FROM cost_name WHERE content = ? AND rowid NOT IN"
        " (SELECT rowid FROM cost_name WHERE content = ? ORDER BY rowid DESC LIMIT ?)",
        (content, content, MAX_NAMES),
    )


def trim(sql: Sql, device: str) -> None:
    """Delete a device's oldest samples beyond its share, and groups and names without any sample."""
    deleted = sql.execute(
        "DELETE FROM cost_sample WHERE device = ? AND cost_group IN (SELECT cost_group FROM cost_sample"
        " WHERE device = ? ORDER BY measured_ms DESC, cost_group DESC LIMIT -1 OFFSET ?)",
        (device, device, MAX_PER_DEVICE),
    ).rowcount
    if deleted:
        sql.execute("DELETE FROM cost_group WHERE number NOT IN (SELECT cost_group FROM cost_sample)")
        sql.execute("DELETE FROM cost_name WHERE content NOT IN (SELECT content FROM cost_group)")


def _number(sql: Sql, group: Group) -> int:
    key = (
        *(group.content, group.profile, group.board, group.backend, group.accelerator),
        *(group.backend_version, group.threads),
    )
    sql.execute(
        "INSERT OR IGNORE INTO cost_group (content, profile, board, backend, accelerator, backend_version,"
        " threads, precision) VALUES (?,?,?,?,?,?,?,?)",
        (*key, group.precision),
    )
    row = sql.execute(
        "SELECT number FROM cost_group WHERE content = ? AND profile = ? AND board = ? AND backend = ?"
        " AND accelerator = ? AND backend_version = ? AND threads = ?",
        key,
    ).fetchone()
    return int(row["number"])


def _cost(sql: Sql, number: int, **group: object) -> CostRow:
    rows = sql.execute(
        "SELECT * FROM cost_sample WHERE cost_group = ? ORDER BY measured_ms DESC LIMIT ?",
        (number, MAX_DEVICES),
    ).fetchall()
    names = sql.execute(
        "SELECT model, version, variant FROM cost_name WHERE content = ? ORDER BY rowid DESC",
        (group["content"],),
    ).fetchall()
    return CostRow(
        number,
        Group(**group),  # type: ignore[arg-type]  # the table's columns
        samples=[{name: row[name] for name in FIGURES} for row in rows],
        measured_ms=rows[0]["measured_ms"],
        names=[dict(name) for name in names],
    )
