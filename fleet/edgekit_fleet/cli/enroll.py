"""``edgekit-fleet enroll``: answer the enrolment request of a device that has no link to this fleet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.command_line import Report
from edgekit.core import wire
from edgekit_fleet.cli import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("request", type=Path, help="what 'edgekit agent enroll --request FILE' wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the answer")
    target.add_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Enrol the device and write the answer, which holds no secret: its key never left the device.

    Raises:
        ProtocolError: The file is not a request.
        EnrollError: The request is not signed by its own key.
        LinkError: The fleet cannot be reached.
    """
    request = wire.decode(arguments.request.read_bytes(), wire.EnrollRequest)
    client = target.opened_client(arguments, needs_token=True)
    claim: dict[str, Any] = {"uses": 1, "expires_h": 1, "label": f"by file, for {request.name}"[:100]}
    token = client.json("POST", "/api/v1/claims", claim)["token"]
    body = wire.encode(msgspec.structs.replace(request, token=token))
    reply = client.send("POST", "/api/v1/enroll", body=body, headers={"Content-Type": "application/json"})
    response = wire.decode(reply.body, wire.EnrollResponse)
    carried = wire.CarriedEnrolment(fleet_url=client.url, response=response)
    arguments.out.write_bytes(wire.encode(carried))
    text = f"enrolled {response.device}; carry {arguments.out} to it: edgekit agent enroll --answer FILE"
    return Report({"device": response.device, "answer": str(arguments.out)}, text)
