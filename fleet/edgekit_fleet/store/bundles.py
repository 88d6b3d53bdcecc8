"""Published bundles and TUF metadata: rows in, rows out. ``registry.repository`` says what may go in.

Functions that take ``sql`` run in the transaction or the read that their caller opened, so that a
publication (root, targets, snapshot, timestamp and the bundle's row) becomes visible in one commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgekit_fleet.store.database import Database, Sql

Table = Literal["bundle", "measured_bundle"]
TABLES: tuple[Table, ...] = ("bundle", "measured_bundle")
"""Bundles that devices may install, and bundles for measurement jobs only."""
MAX_PAGE = 500

_MIGRATIONS = [
    """
    CREATE TABLE tuf_metadata (
      role TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (role, version)
    );
    CREATE TABLE bundle (
      number INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, sha256 TEXT NOT NULL,
      bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL, manifest BLOB NOT NULL,
      published_ms INTEGER NOT NULL, UNIQUE (model, version)
    );
    """,
    """
    CREATE TABLE measured_bundle (
      number INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE,
      bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL, manifest BLOB NOT NULL,
      published_ms INTEGER NOT NULL, issued_ms INTEGER NOT NULL
    );
    """,
]


@dataclass(frozen=True)
class BundleRow:
    """One bundle: the hash, the size in bytes and the JSON of its manifest.

    Args:
        total_bytes: Size of the manifest and of every file that it lists.
        issued_ms: 0 for a bundle that devices may install.
    """

    number: int
    model: str
    version: str
    sha256: str
    size: int
    total_bytes: int
    published_ms: int
    manifest: bytes
    issued_ms: int


class Bundles:
    """The published bundles of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("registry", _MIGRATIONS)

    def get(self, model: str, version: str) -> BundleRow | None:
        """Return the bundle that devices may install as this version."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT * FROM bundle WHERE model = ? AND version = ?", (model, version)
            ).fetchone()
        return None if row is None else _bundle(row)

    def newest_measured(self, model: str, version: str, sha256: str = "") -> BundleRow | None:
        """Return the newest bundle for measuring only; the one with this hash if a hash is given."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT * FROM measured_bundle WHERE model = ? AND version = ? AND (? = '' OR sha256 = ?)"
                " ORDER BY number DESC LIMIT 1",
                (model, version, sha256, sha256),
            ).fetchone()
        return None if row is None else _bundle(row)

    def is_measured(self, model: str, sha256: str) -> bool:
        """Say whether a bundle with this hash is published for measuring only."""
        query = "SELECT 1 FROM measured_bundle WHERE model = ? AND sha256 = ?"
        with self._database.read() as sql:
            return sql.execute(query, (model, sha256)).fetchone() is not None

    def page(self, *, model: str = "", before: int | None = None, limit: int = 50) -> list[BundleRow]:
        """Return bundles that devices may install, the newest first.

        Args:
            model: Only bundles of this model.
            before: The number of the last bundle on the page before.
            limit: At most this many, and at most 500.
        """
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT * FROM bundle WHERE number < ? AND (? = '' OR model = ?)"
                " ORDER BY number DESC LIMIT ?",
                (1 << 62 if before is None else before, model, model, min(max(limit, 1), MAX_PAGE)),
            ).fetchall()
        return [_bundle(row) for row in rows]


def add(sql: Sql, row: BundleRow) -> int:
    """Insert a bundle and return its number; ``issued_ms`` decides the table."""
    columns = "model, version, sha256, bytes, total_bytes, manifest, published_ms"
    values = (
        *(row.model, row.version, row.sha256, row.size),
        *(row.total_bytes, row.manifest, row.published_ms),
    )
    if row.issued_ms:
        added = sql.execute(
            f"INSERT INTO measured_bundle ({columns}, issued_ms) VALUES (?,?,?,?,?,?,?,?)",  # noqa: S608 - fixed
            (*values, row.issued_ms),
        )
    else:
        added = sql.execute(f"INSERT INTO bundle ({columns}) VALUES (?,?,?,?,?,?,?)", values)  # noqa: S608 - fixed
    return added.lastrowid or 0


def signed_targets(sql: Sql, table: Table) -> list[tuple[str, str, str, int, int]]:
    """Return (model, version, manifest's SHA-256, its bytes, issued_ms) of every bundle in a table."""
    issued = "issued_ms" if table == "measured_bundle" else "0"
    rows = sql.execute(f"SELECT model, version, sha256, bytes, {issued} FROM {table}")  # noqa: S608 - fixed
    return [tuple(row) for row in rows]


def manifests(sql: Sql, table: Table) -> list[tuple[str, bytes]]:
    """Return (SHA-256, JSON) of every manifest in a table."""
    return [tuple(row) for row in sql.execute(f"SELECT sha256, manifest FROM {table}")]  # noqa: S608 - fixed


def delete_measured(sql: Sql, hashes: Iterable[str]) -> None:
    """Delete bundles for measuring by the SHA-256 of their manifests."""
    sql.executemany("DELETE FROM measured_bundle WHERE sha256 = ?", [(sha256,) for sha256 in hashes])


def metadata(sql: Sql, role: str, version: int | None = None) -> bytes | None:
    """Return metadata of a role: one version, or the newest; None where there is none."""
    row = sql.execute(
        "SELECT body FROM tuf_metadata WHERE role = ? AND (version = ? OR ? IS NULL)"
        " ORDER BY version DESC LIMIT 1",
        (role, version, version),
    ).fetchone()
    return None if row is None else bytes(row["body"])


def newest_version(sql: Sql, role: str) -> int:
    """Return the newest version of a role's metadata; 0 where there is none."""
    row = sql.execute("SELECT coalesce(max(version), 0) FROM tuf_metadata WHERE role = ?", (role,)).fetchone()
    return int(row[0])


def add_metadata(sql: Sql, role: str, version: int, body: bytes) -> None:
    """Insert one version of a role's metadata."""
    sql.execute("INSERT INTO tuf_metadata VALUES (?,?,?)", (role, version, body))


def keep_newest(sql: Sql, role: str, count: int) -> None:
    """Delete all but the newest versions of a role's metadata."""
    sql.execute(
        "DELETE FROM tuf_metadata WHERE role = ? AND version NOT IN"
        " (SELECT version FROM tuf_metadata WHERE role = ? ORDER BY version DESC LIMIT ?)",
        (role, role, count),
    )


def _bundle(row: sqlite3.Row) -> BundleRow:
    return BundleRow(
        row["number"],
        row["model"],
        row["version"],
        row["sha256"],
        row["bytes"],
        row["total_bytes"],
        row["published_ms"],
        bytes(row["manifest"]),
        row["issued_ms"] if "issued_ms" in row.keys() else 0,  # noqa: SIM118 - a row's values are iterated
    )
