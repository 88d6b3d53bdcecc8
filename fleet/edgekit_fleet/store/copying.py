"""Copy the fleet's database while it is used, and check a copy."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from edgekit.core.errors import ConfigError, StorageError


def copy_database(source: Path, target: Path) -> None:
    """Write a copy of a database, as of one moment, while others write to it.

    Raises:
        ConfigError: There is no database at ``source``.
        StorageError: It cannot be read, or the copy cannot be written.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: no fleet's database here", hint="name the fleet's folder with --data")
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reader,
            contextlib.closing(sqlite3.connect(target)) as writer,
        ):
            reader.backup(writer)  # every page in one step: one read transaction, so one moment
            writer.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    except sqlite3.Error as cause:
        raise StorageError(f"{source}: {cause}", hint="check that the disk has room") from cause


def check_database(path: Path) -> None:
    """Check that a copy is a whole database.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            [verdict] = reader.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as cause:
        verdict = str(cause)
    if verdict != "ok":
        raise ConfigError(f"{path.name}: the database in the backup is damaged: {verdict}")
