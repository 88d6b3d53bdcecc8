"""``edgekit-fleet restore``: make a data folder of a backup, on this machine or another one."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit_fleet.cli import target
from edgekit_fleet.store.clock import unix_ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("file", type=Path, help="the backup")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the new data folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="opens the keys in the backup")
    parser.add_argument(
        "--former",
        type=Path,
        metavar="DIR",
        help="the former data folder, as far as it can be read: keys, enrolments and revocations since",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Restore a backup; the fleet manager is started afterwards.

    Raises:
        ConfigError: It is not a backup, is damaged, or its keys are missing.
        UsageError: The folder has a fleet's data already.
        StorageError: A file cannot be read or written.
    """
    from edgekit_fleet.app.backup import restore

    done = restore(
        arguments.file,
        arguments.data,
        unix_ms(),
        passphrase=target.passphrase_of(arguments.passphrase_file),
        former=arguments.former,
    )
    head, since = done.head, done.since
    document = {
        "data": str(arguments.data),
        "created_unix_ms": head.created_unix_ms,
        "devices": head.devices,
        "blobs": head.blobs,
        "journal": since is not None,
        "enrolled_since": since.enrolled if since else [],
        "revoked_since": since.revoked if since else [],
        "deleted_since": since.deleted if since else [],
    }
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(head.created_unix_ms / 1000))
    lines = [f"{arguments.data}: {head.devices} devices, {head.blobs} files of bundles, as of {made} UTC"]
    if since is None:
        lines.append(
            "without a journal (identities.log): revocations since then are undone, revoke them again;"
            " devices enrolled since then are listed when they connect"
        )
    else:
        for word in ("enrolled", "revoked", "deleted"):
            names = getattr(since, word)
            lines.append(f"{word} since, repeated: {', '.join(names) or 'none'}")
    lines.append("next: edgekit-fleet serve, then edgekit-fleet keys resign with the publisher's keys")
    return Report(document, "\n".join(lines))
