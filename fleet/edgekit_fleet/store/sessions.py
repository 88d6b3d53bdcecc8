"""Sessions of the web UI and one-time login codes, each bound to an API token.

The database keeps SHA-256 hashes of both (they have 256 random bits, so no slow hash is needed). A
session has no role of its own, and ends with its token.
"""

from __future__ import annotations

import hashlib
import secrets

from edgekit_fleet.store.database import Database
from edgekit_fleet.store.tokens import Token

SESSION_MS = 12 * 3600 * 1000
CODE_MS = 15 * 60 * 1000
MAX_SESSIONS = 1000

_MIGRATIONS = [
    """
    CREATE TABLE session (
      hash TEXT PRIMARY KEY, token TEXT NOT NULL REFERENCES token (id), expires_ms INTEGER NOT NULL
    );
    CREATE TABLE login_code (
      hash TEXT PRIMARY KEY, token TEXT NOT NULL REFERENCES token (id), expires_ms INTEGER NOT NULL
    );
    """,
]


class Sessions:
    """The sessions of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("sessions", _MIGRATIONS)

    def open(self, token: str, now_ms: int) -> str:
        """Begin a session of a token (by its id) and return its secret text; the oldest beyond 1000 end."""
        return self._add("session", token, now_ms, SESSION_MS)

    def make_code(self, token: str, now_ms: int) -> str:
        """Return a code that begins one session of a token (by its id), within 15 minutes."""
        return self._add("login_code", token, now_ms, CODE_MS)

    def redeem(self, code: str, now_ms: int) -> str | None:
        """Use a code up and return its token's id; None if it is unknown, used or too old."""
        with self._database.transaction() as sql:
            row = sql.execute(
                "SELECT token FROM login_code WHERE hash = ? AND expires_ms > ?", (_hash(code), now_ms)
            ).fetchone()
            sql.execute("DELETE FROM login_code WHERE hash = ?", (_hash(code),))
        return None if row is None else str(row["token"])

    def find(self, text: str, now_ms: int) -> Token | None:
        """Return the token that a session stands for, while both are valid."""
        with self._database.read() as sql:
            row = sql.execute(
                "SELECT token.* FROM session JOIN token ON token.id = session.token"
                " WHERE session.hash = ? AND session.expires_ms > ? AND NOT token.revoked"
                " AND (token.expires_ms IS NULL OR token.expires_ms > ?)",
                (_hash(text), now_ms, now_ms),
            ).fetchone()
        if row is None:
            return None
        return Token(
            row["id"], row["role"], row["label"], row["created_ms"], row["expires_ms"], revoked=False
        )

    def close(self, text: str) -> None:
        """End a session."""
        with self._database.transaction() as sql:
            sql.execute("DELETE FROM session WHERE hash = ?", (_hash(text),))

    def _add(self, table: str, token: str, now_ms: int, life_ms: int) -> str:
        text = secrets.token_urlsafe(32)
        with self._database.transaction() as sql:
            sql.execute(f"INSERT INTO {table} VALUES (?,?,?)", (_hash(text), token, now_ms + life_ms))  # noqa: S608 - two fixed names
            sql.execute(
                f"DELETE FROM {table} WHERE expires_ms <= ? OR hash NOT IN"  # noqa: S608 - as above
                f" (SELECT hash FROM {table} ORDER BY expires_ms DESC, rowid DESC LIMIT ?)",
                (now_ms, MAX_SESSIONS),
            )
        return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
