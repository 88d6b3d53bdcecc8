"""Which fleet a command is about: ``--fleet URL --token T``, or ``--data DIR`` on the fleet's own machine."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.core.errors import ConfigError, UsageError
from edgekit_fleet.registry.remote import FleetClient, RemoteRegistry

if TYPE_CHECKING:
    from edgekit_fleet.registry.publisher import Registry

ADDRESS_FILE = "serve.json"
"""In the data folder while a fleet manager runs on it: where commands reach it."""
TOKEN_FILE = "admin.token"  # noqa: S105 - a file's name
MAX_SECRET_BYTES = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a fleet."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="the fleet's data folder, on this machine")
    parser.add_argument("--fleet", metavar="URL", help="a running fleet, with --token")
    parser.add_argument("--token", metavar="T", help="an API token, or @FILE that holds one")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the CA of a fleet that speaks HTTPS")


def opened_client(args: argparse.Namespace, *, needs_token: bool = False) -> FleetClient:
    """Return a client of the running fleet that the arguments name.

    Args:
        args: What ``add_arguments`` declares.
        needs_token: Whether every request of the command needs a token.

    Raises:
        UsageError: No fleet is named, none runs on that data folder, or the token is missing.
        ConfigError: Its address, certificate or token file is not usable.
    """
    if args.fleet:
        token = args.token or ""
        if needs_token and not token:
            raise UsageError("--fleet needs --token", hint="edgekit-fleet token create --role viewer")
        if needs_token and not args.fleet.startswith(("http://", "https://")):
            raise UsageError(f"--fleet {args.fleet}: want http://host:port or https://host:port")
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

    A data folder whose fleet manager does not run is opened directly.

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
    """Return the content of a secret's file, without the white space around it.

    Raises:
        ConfigError: The file cannot be read, is empty, or is too long.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as cause:
        raise ConfigError(f"{path}: {cause.strerror}") from cause
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        raise ConfigError(f"{path}: want a secret of 1 to {MAX_SECRET_BYTES} bytes, got {len(secret)}")
    return secret
