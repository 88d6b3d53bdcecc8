"""What the fleet must remember about itself, by name: its authority's key, its last restore."""

from __future__ import annotations

from edgekit_fleet.store.database import Database

AUTHORITY = "authority"
"""SHA-256 of the certificate authority's public key that this fleet's devices trust."""
MOVES_TO = "moves_to"
"""Where the fleet is going to be: ``wire.Addresses`` as JSON; new devices are told, too."""
ONLINE_KEYS = "online_keys"
"""Whether the keys that the fleet signs with were made: they must not be made anew unnoticed."""
RESTORED = "restored"
"""The last restore: ``<time of the backup> <time of the restore> <blind or repeated>``, Unix milliseconds.

``blind``: there was no journal, so revocations since the backup are undone."""

_MIGRATIONS = ["CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"]


class Facts:
    """The facts of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate("facts", _MIGRATIONS)

    def get(self, name: str) -> str:
        """Return a fact; empty where it was never set."""
        with self._database.read() as sql:
            row = sql.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row["value"])

    def set(self, name: str, value: str) -> None:
        """Set a fact; nothing is written where it says the same already."""
        if self.get(name) == value:
            return
        with self._database.transaction() as sql:
            sql.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def restored(self) -> tuple[int, int] | None:
        """Return when the restored backup was made and when it was restored; None if it never was."""
        text = self.get(RESTORED)
        if not text:
            return None
        backup_ms, restored_ms, _ = text.split()
        return int(backup_ms), int(restored_ms)

    def is_blind(self) -> bool:
        """Say whether the last restore did not know which devices had been revoked since the backup."""
        return self.get(RESTORED).endswith("blind")
