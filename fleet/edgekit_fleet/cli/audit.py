"""``edgekit-fleet audit``: write the audit log to a file, or check the hash chain of such a file."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edgekit.base.command_line import Report
from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, TrustError
from edgekit_fleet.cli import target
from edgekit_fleet.store.audit import FIRST, Entry, first_broken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write every entry to a file, one JSON document a line")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    target.add_arguments(export)
    check = actions.add_parser("check", help="check that no entry of a file was changed, removed or inserted")
    check.add_argument("file", type=Path, help="what `audit export` wrote")
    check.add_argument(
        "--last",
        default="",
        metavar="HASH",
        help="a hash that an earlier export ended with: it must be there",
    )


def run(args: argparse.Namespace) -> Report:
    """Export the log, or check an exported one.

    Raises:
        TrustError: The chain is broken, or does not hold the hash that ``--last`` names.
        ConfigError: The file cannot be read, or is not an exported log.
        LinkError: The fleet cannot be reached.
    """
    if args.action == "export":
        client, lines = target.opened_client(args, needs_token=True), b""
        while body := client.send("GET", f"/api/v1/audit/export?after={len(lines.splitlines())}").body:
            lines += body
        write_durably(args.output, lines, mode=0o600)
        return _report(args.output, _read(lines, args.output))
    try:
        body = args.file.read_bytes()
    except OSError as cause:
        raise ConfigError(f"{args.file}: {cause.strerror}") from cause
    entries = _read(body, args.file)
    if (broken := first_broken(entries)) is not None:
        raise TrustError(f"{args.file}: entry {broken} does not follow the one before: the log was changed")
    if args.last and args.last not in {FIRST, *(entry.hash for entry in entries)}:
        raise TrustError(f"{args.file}: no entry has the hash {args.last}: the end of the log is missing")
    return _report(args.file, entries)


def _read(body: bytes, path: Path) -> list[Entry]:
    try:
        return [msgspec.json.decode(line, type=Entry) for line in body.splitlines()]
    except msgspec.DecodeError as cause:
        raise ConfigError(f"{path}: not an exported audit log: {cause}") from cause


def _report(path: Path, entries: list[Entry]) -> Report:
    last = entries[-1].hash if entries else FIRST
    document = {"file": str(path), "entries": len(entries), "last": last}
    return Report(document, f"{path}: {len(entries)} entries, the last has the hash {last}")
