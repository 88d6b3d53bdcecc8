"""``edgekit-fleet backup``: write everything that a fleet keeps into one file, while it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit_fleet.cli import target
from edgekit_fleet.store.clock import unix_ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("file", type=Path, help="the backup to write; it must not exist")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the fleet's data folder")
    parser.add_argument("--database", type=Path, metavar="FILE", help="the database if it is not in DIR")
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="put the secret keys in, encrypted with this"
    )


def run(arguments: argparse.Namespace) -> Report:
    """Write a backup.

    Raises:
        ConfigError: The folder has no fleet's data.
        UsageError: The file exists.
        StorageError: A file cannot be read or written.
    """
    from edgekit_fleet.app.backup import back_up

    head = back_up(
        arguments.data,
        arguments.file,
        unix_ms(),
        database=arguments.database,
        passphrase=target.passphrase_of(arguments.passphrase_file),
    )
    size = arguments.file.stat().st_size
    document = {
        "file": str(arguments.file),
        "bytes": size,
        "created_unix_ms": head.created_unix_ms,
        "devices": head.devices,
        "blobs": head.blobs,
        "has_keys": head.has_keys,
        "authority": head.authority,
    }
    keys = "with the encrypted keys" if head.has_keys else "without keys: keep ca and keys elsewhere"
    files = f"{head.blobs} files of bundles, {size / 1e6:.1f} MB"
    text = f"{arguments.file}: {head.devices} devices, {files}, {keys}"
    return Report(document, text)
