"""``edgekit-fleet import``: take in the outbox of a device that has no link to this fleet."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgekit.base.command_line import Report
from edgekit.base.parts import read_parts
from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit_fleet.cli import target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("outbox", type=Path, help="what 'edgekit agent outbox export FILE' wrote")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the answer")
    target.add_arguments(parser)


def run(arguments: argparse.Namespace) -> Report:
    """Store every message that the fleet does not have, and write the answer that frees them on the device.

    Raises:
        UsageError: The file is not whole, or has no messages.
        TrustError: No device of this fleet signed it.
        LinkError: The fleet cannot be reached.
    """
    client = target.opened_client(arguments, needs_token=True)
    answer, parts = b"", 0
    for part in read_parts(arguments.outbox):
        headers = {"Content-Type": "application/octet-stream"}
        answer = client.send("POST", "/api/v1/outboxes", body=part, headers=headers).body
        parts += 1
    if not answer:
        raise UsageError(f"{arguments.outbox} has no messages: nothing waited in the outbox")
    arguments.out.write_bytes(answer)
    ack = wire.decode(answer, wire.CarriedAck)
    document = {
        "device": ack.device,
        "boot": ack.boot,
        "watermark": ack.watermark,
        "parts": parts,
        "answer": str(arguments.out),
    }
    text = f"{ack.device}: every message up to number {ack.watermark} is here; carry {arguments.out} back: "
    return Report(document, text + "edgekit agent outbox acknowledge FILE")
