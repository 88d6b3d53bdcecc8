"""``edgekit-fleet keys``: generate and replace the publisher's keys, which never go to the fleet server."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit_fleet.cli import target
from edgekit_fleet.registry import publisher, trust
from edgekit_fleet.registry.keyring import ROTATABLE, Keyring
from edgekit_fleet.store.clock import unix_ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "action",
        choices=("init", "rotate", "resign"),
        help="init: generate root and targets keys; rotate: replace them and name the fleet's current keys;"
        " resign: after the fleet was restored from a backup, sign its list of bundles anew",
    )
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the publisher's key folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="encrypts the key files")
    parser.add_argument(
        "--role",
        action="append",
        choices=(*ROTATABLE, "online"),
        help="rotate only this key (repeatable; online: only name the fleet's current keys); default: all",
    )
    target.add_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """Generate or replace keys, or sign a restored fleet's list of bundles anew.

    Raises:
        UsageError: The folder has keys already, or no fleet was named.
        TrustError: The fleet refused the new root.
        LinkError: The fleet cannot be reached.
    """
    passphrase = target.passphrase_of(args.passphrase_file)
    if args.action != "rotate" and args.role:
        raise UsageError(f"keys {args.action} concerns every key", hint="omit --role")
    with target.opened_registry(args) as registry:
        if args.action == "init":
            keyring = Keyring.make(args.keys, registry.online_keys(), unix_ms(), passphrase)
            version = publisher.install_root(keyring, registry, unix_ms()) if can_install(args) else 0
        elif args.action == "resign":
            keyring = Keyring(args.keys, passphrase)
            version = publisher.resign(keyring, registry, unix_ms())
        else:
            keyring = Keyring(args.keys, passphrase)
            roles = [role for role in args.role or ROTATABLE if role in ROTATABLE]
            version = publisher.rotate(roles, keyring, registry, unix_ms())
    return _report(keyring, version)


def can_install(args: argparse.Namespace) -> bool:
    """Say whether the arguments permit writing to the fleet; reading its public keys needs no token."""
    return args.data is not None or bool(args.token)


def _report(keyring: Keyring, targets_version: int) -> Report:
    root = trust.view_root(keyring.root)
    document = {
        "keys": str(keyring.folder),
        "root_version": root.version,
        "root_expires_unix_ms": root.expires_unix_ms,
        "targets_version": targets_version,
        "installed": targets_version > 0,
        "keyids": {role: list(keyids) for role, keyids in root.keyids.items()},
    }
    where = "the fleet trusts it" if targets_version else "the fleet gets it with the first publication"
    text = (
        f"{keyring.folder}: root version {root.version}; {where}.\n"
        "Keep this folder safe, and never on the fleet server: whoever has it decides what devices run."
    )
    return Report(document, text)
