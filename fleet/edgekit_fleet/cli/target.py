"""Which fleet a command is about: one reached over HTTP, or one whose data folder is at hand."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core.errors import ConfigError, UsageError
from edgekit_fleet.cli.remote import ADDRESS_FILE, TOKEN_FILE
from edgekit_fleet.registry.remote import FleetClient, RemoteRegistry

if TYPE_CHECKING:
    from edgekit_fleet.registry.publisher import Registry

MAX_SECRET_BYTES = 4096


def opened_client(args: argparse.Namespace) -> FleetClient:
    """Return a client of the running fleet that the arguments of ``cli.remote`` name.

    Raises:
        UsageError: No fleet is named, or none runs on that data folder.
        ConfigError: Its address, certificate or token file is not usable.
    """
    if args.fleet:
        token = args.token or ""
        if token.startswith("@"):
            token = read_secret(Path(token[1:])).decode(errors="replace")
        return FleetClient(args.fleet, token, args.ca)
    if args.data is None:
        raise UsageError("which fleet?", hint="--data DIR on its own machine, or --fleet URL --token T")
    try:
        running = json.loads((args.data / ADDRESS_FILE).read_bytes())
        url, ca = str(running["url"]), str(running["ca"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise UsageError(
            f"no fleet manager runs on {args.data}: {cause}", hint=f"edgekit-fleet serve --data {args.data}"
        ) from cause
    token = read_secret(args.data / TOKEN_FILE).decode(errors="replace")
    return FleetClient(url, token, Path(ca) if ca else None)


@contextlib.contextmanager
def opened_registry(args: argparse.Namespace) -> Iterator[Registry]:
    """Give the registry of the fleet that the arguments name, and close it afterwards.

    Of a data folder whose fleet manager does not run, the files themselves.

    Raises:
        UsageError: No fleet is named, or two are.
        ConfigError: The folder holds no fleet's data.
    """
    if args.fleet and args.data is not None:
        raise UsageError("which fleet?", hint="either --fleet URL --token T, or --data DIR")
    if args.data is None or (args.data / ADDRESS_FILE).exists():
        yield RemoteRegistry(opened_client(args))
        return
    from edgekit_fleet.registry.repository import open_repository
    from edgekit_fleet.store.database import open_database

    with contextlib.closing(open_database(args.data)) as database:
        yield open_repository(args.data, database)


def passphrase_of(path: Path | None) -> bytes:
    """Return the passphrase in a file; empty without one.

    Raises:
        ConfigError: The file cannot be read, or is empty.
    """
    return b"" if path is None else read_secret(path)


def read_secret(path: Path) -> bytes:
    """Return a secret's file without the white space around it.

    Raises:
        ConfigError: The file cannot be read, is empty, or too long to be one.
    """
    try:
        with path.open("rb") as file:
            found = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as cause:
        raise ConfigError(f"{path}: {cause.strerror}") from cause
    if not 0 < len(found) <= MAX_SECRET_BYTES:
        raise ConfigError(f"{path}: want a secret of 1 to {MAX_SECRET_BYTES} bytes, got {len(found)}")
    return found
