"""``edgekit-fleet token create``: tokens that enrol devices, and tokens for the API."""

from __future__ import annotations

import argparse

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit_fleet.cli import target
from edgekit_fleet.store.tokens import ROLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="create a token; its text is shown only once")
    target.add_arguments(create)
    create.add_argument("--role", choices=ROLES, help="an API token with this role")
    create.add_argument("--enroll", action="store_true", help="a token that enrols devices")
    create.add_argument(
        "--uses", type=int, default=1, metavar="N", help="number of devices it enrols (default 1)"
    )
    create.add_argument(
        "--expires-h", type=float, metavar="H", help="hours until it expires (enrolment: 24; API: never)"
    )
    create.add_argument(
        "--device", default="", metavar="ID", help="enrol one machine in the place of this device"
    )
    create.add_argument("--label", default="", help="a note, shown in lists")


def run(arguments: argparse.Namespace) -> Report:
    """Create a token."""
    if arguments.enroll == bool(arguments.role):
        raise UsageError("which token? use either --enroll or --role R")
    client = target.opened_client(arguments, needs_token=True)
    if arguments.enroll:
        hours = arguments.expires_h if arguments.expires_h is not None else 24
        body = {"uses": arguments.uses, "expires_h": hours, "label": arguments.label}
        body["device"] = arguments.device
        text = client.json("POST", "/api/v1/claims", body)["token"]
        return Report({"token": text, "fleet": client.url, "uses": arguments.uses}, text)
    body = {"role": arguments.role, "expires_h": arguments.expires_h, "label": arguments.label}
    text = client.json("POST", "/api/v1/tokens", body)["token"]
    return Report({"token": text, "fleet": client.url, "role": arguments.role}, text)
