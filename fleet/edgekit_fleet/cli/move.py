"""``edgekit-fleet move``: tell every device where the fleet manager is going to be."""

from __future__ import annotations

import argparse

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit_fleet.cli import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    target.add_arguments(parser)
    parser.add_argument("--to", metavar="URL", help="its new address; without it: show who has been told")
    parser.add_argument("--to-broker", metavar="URL", help="the broker's new address, mqtts://HOST:PORT")


def run(arguments: argparse.Namespace) -> Report:
    """Announce a move, or show how far the announcement has come.

    Raises:
        UsageError: Only one of the two addresses is given, or it is not valid.
        LinkError: The fleet manager cannot be reached.
    """
    if bool(arguments.to) != bool(arguments.to_broker):
        raise UsageError("a move needs --to and --to-broker")
    client = target.opened_client(arguments, needs_token=True)
    if arguments.to:
        body = {"url": arguments.to.rstrip("/"), "broker_url": arguments.to_broker.rstrip("/")}
        document = client.json("POST", "/api/v1/move", body)
    else:
        document = client.json("GET", "/api/v1/move")
    if not document["url"]:
        return Report(document, "no move was announced")
    text = f"{document['accepted']} of {document['devices']} devices know {document['url']}"
    return Report(document, text)
