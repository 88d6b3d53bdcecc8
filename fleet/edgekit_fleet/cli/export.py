"""``edgekit-fleet export``: a bundle in one file, with what a device needs to trust it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit.core import wire
from edgekit.core.archive import TRUST
from edgekit.core.errors import ServerError, UsageError
from edgekit_fleet.cli import target
from edgekit_fleet.registry.bundle import MANIFEST, Bundle, read_bundle, write_archive
from edgekit_fleet.registry.remote import FleetClient

MAX_ROOTS = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle that was published: a folder or an .ekb file")
    parser.add_argument("--device", required=True, metavar="ID", help="the device it is carried to")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the .ekb to carry")
    target.add_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Write the bundle with the device's signed desired state and the metadata that the publisher signed.

    Raises:
        ModelError: The bundle is not valid.
        UsageError: The fleet does not direct this device to this bundle.
        LinkError: The fleet cannot be reached.
    """
    bundle = read_bundle(arguments.bundle)
    client = target.opened_client(arguments, needs_token=True)
    desired = client.send("GET", f"/api/v1/devices/{arguments.device}/desired").body
    _check_directed(wire.decode(desired, wire.Desired), bundle)
    trust = {f"{TRUST}desired.json": desired}
    trust |= {f"{TRUST}metadata/{name}": data for name, data in _metadata(client)}
    write_archive(arguments.out, _members(bundle, trust))
    model, version = bundle.manifest.model, bundle.manifest.version
    document = {"device": arguments.device, "model": model, "version": version, "file": str(arguments.out)}
    text = f"{arguments.out} has {model} {version} for {arguments.device}; carry it there within two weeks: "
    return Report(document, text + f"edgekit agent install {arguments.out.name}")


def _check_directed(desired: wire.Desired, bundle: Bundle) -> None:
    manifest = bundle.manifest
    wanted = desired.models.get(manifest.model)
    if wanted is None or (wanted.version, wanted.sha256) != (manifest.version, bundle.sha256):
        what = f"'{manifest.model} {wanted.version}'" if wanted else f"no version of '{manifest.model}'"
        raise UsageError(
            f"the fleet directs {desired.device} to {what}, and not to this bundle of {manifest.version}",
            hint=f"edgekit-fleet rollout create --model {manifest.model} --version {manifest.version}"
            f" --devices {desired.device} --waves 100%",
        )


def _metadata(client: FleetClient) -> Iterator[tuple[str, bytes]]:
    """Yield TUF's files as a client asks for them: every root, then the newest of each other role."""
    version = 1
    while version <= MAX_ROOTS and (root := _root(client, version)) is not None:
        yield f"{version}.root.json", root
        version += 1
    name = "timestamp.json"
    for following in ("snapshot.json", "targets.json", None):
        data = client.send("GET", f"/tuf/metadata/{name}").body
        yield name, data
        if following is not None:
            name = f"{json.loads(data)['signed']['meta'][following]['version']}.{following}"


def _root(client: FleetClient, version: int) -> bytes | None:
    try:
        return client.send("GET", f"/tuf/metadata/{version}.root.json").body
    except ServerError:  # the one before was the last
        return None


def _members(bundle: Bundle, trust: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield MANIFEST, bundle.manifest_bytes
    for file in bundle.manifest.every_file():
        yield file.path, b"".join(bundle.chunks(file))
    yield from trust.items()
