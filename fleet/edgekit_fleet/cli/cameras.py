"""``edgekit-fleet cameras``: define the cameras of devices, by device or by label, and their passwords."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgekit.base.command_line import Report
from edgekit.core.errors import ConfigError
from edgekit_fleet.cameras.written import read_cameras
from edgekit_fleet.cli import target
from edgekit_fleet.registry.remote import FleetClient

MAX_FILE_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=about)
        target.add_arguments(sub)
        return sub

    def add_of_target(name: str, about: str) -> argparse.ArgumentParser:
        sub = add(name, about)
        which = sub.add_mutually_exclusive_group(required=True)
        which.add_argument("--device", default="", metavar="ID", help="the cameras of this device")
        which.add_argument("--label", default="", metavar="L", help="the cameras of devices with this label")
        return sub

    add("list", "list every camera list")
    show = add("show", "show a device's cameras with those of its labels, and whether it has taken them")
    show.add_argument("device", metavar="DEVICE")
    give = add_of_target("set", "replace a list by that of a file with [[camera]] tables")
    give.add_argument(
        "file", type=Path, metavar="FILE", help="TOML: name, kind, uri, further keys of a source"
    )
    password = add_of_target("password", "set a camera's password; nobody can read it back")
    password.add_argument("camera", metavar="CAMERA")
    how = password.add_mutually_exclusive_group(required=True)
    how.add_argument("--password-file", type=Path, metavar="FILE", help="its content is the password")
    how.add_argument("--delete", action="store_true", help="delete the password")
    add_of_target("remove", "delete a list with its passwords")
    label = add("label", "replace a device's labels")
    label.add_argument("device", metavar="DEVICE")
    label.add_argument("labels", nargs="*", metavar="LABEL", help="none deletes them")


def run(args: argparse.Namespace) -> Report:
    """Do one action.

    Raises:
        UsageError: The list is not valid, or there is no such device, list or camera.
        ConfigError: A file cannot be read.
        LinkError: The fleet cannot be reached.
    """
    client = target.opened_client(args, needs_token=True)
    if args.action == "list":
        return _list(client)
    if args.action in ("show", "label"):
        return _device(client, args)
    scope, name = ("device", args.device) if args.device else ("label", args.label)
    path = f"/api/v1/cameras/{scope}/{quote(name, safe='')}"
    if args.action == "remove":
        client.send("DELETE", path)
        return Report({"removed": f"{scope} {name}"}, f"{scope} {name} has no camera list any more")
    if args.action == "set":
        return _shown(client.json("PUT", path, {"cameras": _read(args.file)}))
    of_camera = f"{path}/passwords/{quote(args.camera, safe='')}"
    if args.delete:
        return _shown(client.json("DELETE", of_camera))
    password = target.read_secret(args.password_file).decode(errors="replace")
    return _shown(client.json("PUT", of_camera, {"password": password}))


def _read(file: Path) -> list[dict[str, Any]]:
    """Return the cameras of a TOML file as the API takes them.

    Raises:
        ConfigError: It cannot be read.
        UsageError: It is not a list of cameras.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES).decode()
    except OSError as cause:
        raise ConfigError(f"{file}: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{file}: is not UTF-8: {cause}") from cause
    return [
        {"name": camera.name, "kind": camera.kind, "uri": camera.uri, "options": camera.options}
        for camera in read_cameras(text, str(file))
    ]


def _list(client: FleetClient) -> Report:
    items: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = client.json("GET", "/api/v1/cameras", params={"after": after, "limit": "500"})
        items += page["items"]
        after = page["next"]
    return Report({"lists": items}, "\n\n".join(map(_text, items)) or "no camera is defined")


def _device(client: FleetClient, args: argparse.Namespace) -> Report:
    path = f"/api/v1/devices/{quote(args.device, safe='')}"
    if args.action == "label":
        document = client.json("PUT", f"{path}/labels", {"labels": args.labels})
    else:
        document = client.json("GET", f"{path}/cameras")
    state = document["problem"] or ("in force" if document["in_force"] else "not taken yet")
    lines = [f"{args.device} ({', '.join(document['labels']) or 'no label'}): {state}"]
    return Report(document, "\n".join([*lines, *map(_camera_line, document["cameras"])]))


def _shown(stored: dict[str, Any]) -> Report:
    return Report(stored, _text(stored))


def _text(stored: dict[str, Any]) -> str:
    return "\n".join([f"{stored['scope']} {stored['name']}", *map(_camera_line, stored["cameras"])])


def _camera_line(camera: dict[str, Any]) -> str:
    has = "  with a password" if camera["password_unix_ms"] else ""
    options = "".join(f"  {key}={value}" for key, value in camera["options"].items())
    return f"  {camera['name']}  {camera['kind']}  {camera['uri']}{options}{has}"
