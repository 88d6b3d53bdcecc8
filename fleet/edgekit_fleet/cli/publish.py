"""``edgekit-fleet publish``: check a bundle, sign it on this machine, and make it installable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.base.command_line import Report
from edgekit.core.errors import ServerError
from edgekit_fleet.cli import target
from edgekit_fleet.registry import publisher
from edgekit_fleet.registry.bundle import read_bundle
from edgekit_fleet.registry.keyring import Keyring
from edgekit_fleet.registry.remote import RemoteRegistry
from edgekit_fleet.store.clock import unix_ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle's folder or its .ekb file")
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the publisher's key folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="decrypts the key files")
    parser.add_argument(
        "--measure", action="store_true", help="for measurement jobs only: no device ever installs it"
    )
    target.add_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """Publish one bundle; publishing the same bundle again changes nothing.

    Raises:
        ModelError: The bundle is not valid, or its version is published with other content.
        TrustError: The fleet's metadata is not signed by these keys.
        LinkError: The fleet cannot be reached.
    """
    bundle = read_bundle(args.bundle)
    keyring = Keyring(args.keys, target.passphrase_of(args.passphrase_file))
    with target.opened_registry(args) as registry:
        done = publisher.publish(
            bundle, keyring, registry, unix_ms(), _progress(), only_measured=args.measure
        )
        fit, doubts = (None, []) if args.measure else _fit(registry, done)
    document = {
        "model": done.model,
        "version": done.version,
        "sha256": done.sha256,
        "target": done.target,
        "published": done.is_new,
        "targets_version": done.targets_version,
        "uploaded": done.uploaded,
        "uploaded_bytes": done.uploaded_bytes,
        "fit": fit,
    }
    return Report(document, "\n".join([_said(done, args.measure), *doubts]))


def _said(done: publisher.Publication, only_measured: bool) -> str:
    if not done.is_new:
        return f"{done.model} {done.version} was published before; nothing changed"
    return (
        f"{done.model} {done.version} is published{' for measuring' if only_measured else ''}:"
        f" {done.uploaded} files,"
        f" {done.uploaded_bytes / 1e6:.1f} MB sent, targets version {done.targets_version}"
    )


def _fit(
    registry: publisher.Registry, done: publisher.Publication
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return how many of the fleet's devices can run it, and what to warn of: nothing if one can.

    Without a running fleet manager nobody says how many.
    """
    if not isinstance(registry, RemoteRegistry):
        return None, []
    try:
        fit = dict(registry.fit(done.model, done.version))
    except ServerError as cause:  # an older fleet manager; it is published all the same
        return None, [f"warning: the fleet does not say which devices can run it: {cause.message}"]
    if not fit["devices"] or fit["unfit"] < fit["devices"]:
        return fit, []
    head = f"warning: it runs on none of the {fit['devices']} devices whose hardware this fleet knows"
    return fit, [head, *(f"  {reason}" for reason in fit["reasons"])]


def _progress() -> Callable[[int, int], None]:
    """Return a callback that shows the upload on a terminal, at each percent."""
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent != shown and sys.stderr.isatty():
            shown = percent
            end = "\n" if done >= total else ""
            print(f"\ruploading {percent:3d} % of {total / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)

    return show
