"""API tokens with roles, and claims, which are tokens that enrol devices.

A token's text is shown once; the database keeps its SHA-256 (the secret has 256 random bits, so no
slow hash is needed).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Literal

from edgekit.core.errors import EnrollError, UsageError
from edgekit.core.spec import DEVICE_ID
from edgekit_fleet.store.database import Database

Role = Literal["viewer", "operator", "publisher", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "publisher", "admin")
_INCLUDED: dict[Role, frozenset[Role]] = {
    "viewer": frozenset({"viewer"}),
    "operator": frozenset({"viewer", "operator"}),
    "publisher": frozenset({"viewer", "publisher"}),
    "admin": frozenset(ROLES),
}
"""What each role may do: whoever says what exists does not decide where it runs, and the reverse."""

_MIGRATIONS = [
    """
    CREATE TABLE token (
      id TEXT PRIMARY KEY, hash TEXT NOT NULL, role TEXT NOT NULL, label TEXT NOT NULL,
      created_ms INTEGER NOT NULL, expires_ms INTEGER, revoked INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE claim (
      id TEXT PRIMARY KEY, hash TEXT NOT NULL, label TEXT NOT NULL, max_uses INTEGER NOT NULL,
      created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE claim_use (
      claim TEXT NOT NULL REFERENCES claim (id), key_sha256 TEXT NOT NULL, device TEXT NOT NULL,
      used_ms INTEGER NOT NULL, PRIMARY KEY (claim, key_sha256)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE claim ADD COLUMN device TEXT NOT NULL DEFAULT ''",
]


@dataclass(frozen=True)
class Token:
    """An API token, without its secret."""

    id: str
    role: Role
    label: str
    created_ms: int
    expires_ms: int | None
    revoked: bool

    def may(self, role: Role) -> bool:
        """Say whether its role includes ``role``."""
        return role in _INCLUDED[self.role]


@dataclass(frozen=True)
class Claim:
    """An enrolment token, without its secret."""

    id: str
    label: str
    max_uses: int
    uses: int
    created_ms: int
    expires_ms: int
    revoked: bool


class Tokens:
    """The tokens and claims of one database; times are handed in, as Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("tokens", _MIGRATIONS)

    def create(self, role: Role, now_ms: int, *, label: str = "", expires_ms: int | None = None) -> str:
        """Create an API token and return its text, ``ekt.<id>.<secret>``.

        Raises:
            UsageError: There is no such role.
        """
        if role not in ROLES:
            raise UsageError(f"role '{role}': there are {', '.join(ROLES)}")
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO token (id, hash, role, label, created_ms, expires_ms) VALUES (?,?,?,?,?,?)",
                (number, _hash(secret), role, label, now_ms, expires_ms),
            )
        return f"ekt.{number}.{secret}"

    def check(self, text: str, now_ms: int) -> Token | None:
        """Return the token with this text; None if there is none or it is not valid now."""
        kind, _, rest = text.partition(".")
        number, _, secret = rest.partition(".")
        with self._database.read() as sql:
            row = sql.execute("SELECT * FROM token WHERE id = ?", (number,)).fetchone()
        if kind != "ekt" or row is None or not hmac.compare_digest(row["hash"], _hash(secret)):
            return None
        if row["revoked"] or (row["expires_ms"] is not None and row["expires_ms"] <= now_ms):
            return None
        return _token(row)

    def all(self) -> list[Token]:
        """Return all API tokens, the newest first."""
        with self._database.read() as sql:
            return [_token(row) for row in sql.execute("SELECT * FROM token ORDER BY created_ms DESC, id")]

    def revoke(self, number: str) -> bool:
        """Revoke a token or a claim at once; return False if there is none with this id."""
        with self._database.transaction() as sql:
            count = sql.execute("UPDATE token SET revoked = 1 WHERE id = ?", (number,)).rowcount
            count += sql.execute("UPDATE claim SET revoked = 1 WHERE id = ?", (number,)).rowcount
        return count > 0

    def create_claim(
        self,
        now_ms: int,
        expires_ms: int,
        *,
        uses: int = 1,
        label: str = "",
        ca_sha256: str = "",
        device: str = "",
    ) -> str:
        """Create a claim and return its text, ``ek1.<id>.<secret>[.<SHA-256 of the fleet's CA>]``.

        With ``device`` it enrols one machine in the place of that device, whatever name it asks for.

        Raises:
            UsageError: ``uses`` is not 1 to 100,000, or not 1 with ``device``, or the expiry is in the past.
        """
        if device and (uses != 1 or not DEVICE_ID.fullmatch(device)):
            raise UsageError(f"a claim in the place of {device!r}: want a device's id, and one use")
        if not 1 <= uses <= 100_000:
            raise UsageError(f"uses {uses}: want 1 to 100000 devices for a claim")
        if expires_ms <= now_ms:
            raise UsageError("the claim would be expired already")
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(24)
        with self._database.transaction() as sql:
            sql.execute(
                "INSERT INTO claim (id, hash, label, max_uses, created_ms, expires_ms, device)"
                " VALUES (?,?,?,?,?,?,?)",
                (number, _hash(secret), label, uses, now_ms, expires_ms, device),
            )
        return ".".join(part for part in ("ek1", number, secret, ca_sha256) if part)

    def claims(self) -> list[Claim]:
        """Return all claims, the newest first."""
        with self._database.read() as sql:
            rows = sql.execute(
                "SELECT claim.*, (SELECT count(*) FROM claim_use WHERE claim = claim.id) AS uses"
                " FROM claim ORDER BY created_ms DESC, id"
            ).fetchall()
        return [
            Claim(
                r["id"],
                r["label"],
                r["max_uses"],
                r["uses"],
                r["created_ms"],
                r["expires_ms"],
                bool(r["revoked"]),
            )
            for r in rows
        ]

    def claimed_by(self, text: str, key_sha256: str, now_ms: int) -> tuple[str, str | None]:
        """Return (claim id, the device that this key enrolled with it before, if any).

        A key that used the claim before may repeat the request, even when the claim is used up or
        expired: the answer to the first request may have been lost.

        Raises:
            EnrollError: The claim is not of this fleet, or is revoked, expired or used up.
        """
        kind, number, secret = [*text.split("."), "", "", ""][:3]
        with self._database.read() as sql:
            row = sql.execute("SELECT * FROM claim WHERE id = ?", (number,)).fetchone()
            use = sql.execute(
                "SELECT device FROM claim_use WHERE claim = ? AND key_sha256 = ?", (number, key_sha256)
            ).fetchone()
            uses = sql.execute("SELECT count(*) FROM claim_use WHERE claim = ?", (number,)).fetchone()[0]
        if kind != "ek1" or row is None or not hmac.compare_digest(row["hash"], _hash(secret)):
            raise EnrollError(
                "the enrolment token is not one of this fleet", hint="edgekit-fleet token create --enroll"
            )
        if row["revoked"]:
            raise EnrollError(f"enrolment token {number} is revoked")
        if use is not None:
            return number, str(use["device"])
        if row["expires_ms"] <= now_ms:
            raise EnrollError(
                f"enrolment token {number} is expired", hint="edgekit-fleet token create --enroll"
            )
        if uses >= row["max_uses"]:
            raise EnrollError(
                f"enrolment token {number} is used up: {uses} of {row['max_uses']}",
                hint="edgekit-fleet token create --enroll --uses N",
            )
        return number, None

    def replaced_by(self, claim: str) -> str:
        """Return the device that a claim replaces; empty for none."""
        with self._database.read() as sql:
            row = sql.execute("SELECT device FROM claim WHERE id = ?", (claim,)).fetchone()
        return "" if row is None else str(row["device"])

    def forget_uses(self, device: str) -> None:
        """Forget which keys enrolled a device, when it is deleted: its old key must not bring it back."""
        with self._database.transaction() as sql:
            sql.execute(
                "UPDATE claim_use SET key_sha256 = 'deleted ' || key_sha256 WHERE device = ?", (device,)
            )

    def use_claim(self, claim: str, key_sha256: str, device: str, now_ms: int) -> None:
        """Record that a key enrolled a device with a claim; call it in the transaction that adds it."""
        with self._database.transaction() as sql:
            sql.execute("INSERT INTO claim_use VALUES (?,?,?,?)", (claim, key_sha256, device, now_ms))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: sqlite3.Row) -> Token:
    return Token(
        row["id"], row["role"], row["label"], row["created_ms"], row["expires_ms"], bool(row["revoked"])
    )
