"""``edgekit-fleet simulate``: thousands of devices in one process, against a real fleet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edgekit.base.command_line import Report
from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit_fleet.cli import target
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.simulator.identities import Identity, enrolled
from edgekit_fleet.simulator.run import simulate
from edgekit_fleet.simulator.weather import Plan

NOT_ALL = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    plan = Plan()
    target.add_arguments(parser)
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--keep", type=Path, default=Path("simulated"), metavar="DIR", help="their certificates (./simulated)"
    )
    parser.add_argument("--prefix", default="sim-", help="of their names (default sim-)")
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="how long (default 60)")
    parser.add_argument(
        "--connect-s", type=float, default=plan.connect_s, help="time over which they connect (default 10)"
    )
    parser.add_argument(
        "--report-s", type=float, default=plan.report_s, help="between two metric reports (default 30)"
    )
    parser.add_argument("--event-s", type=float, default=plan.event_s, help="between two events (default 60)")
    parser.add_argument(
        "--flapping", type=float, default=0.0, metavar="SHARE", help="share of links that come and go"
    )
    parser.add_argument(
        "--flap-s", type=float, default=plan.flap_s, help="how long they hold and are gone (default 20)"
    )
    parser.add_argument("--storm-s", type=float, default=0.0, help="all links break each so many seconds")
    parser.add_argument("--storms", type=int, default=0, help="how often at most (default: no limit)")
    parser.add_argument(
        "--bad-clocks", type=float, default=0.0, metavar="SHARE", help="share of clocks that are wrong"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="when each record was acknowledged, and after how long (CSV)"
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the weather (default 0)")


def run(arguments: argparse.Namespace) -> Report:
    """Enrol what is missing, run the devices, and report; exit code 8 if not everything was acknowledged.

    Raises:
        UsageError: A number is out of range.
        EnrollError: The fleet refuses to enrol a device.
    """
    plan = plan_of(arguments)
    if arguments.devices < 1:
        raise UsageError(f"--devices {arguments.devices}: want at least 1")
    identities = enrol(
        target.opened_client(arguments, needs_token=True), arguments.keep, arguments.prefix, arguments.devices
    )
    outcome = simulate(identities, plan, _show if sys.stderr.isatty() else lambda _: None)
    document = outcome.document
    if arguments.log is not None:
        rows = "".join(f"{when_s:.3f},{took_s:.4f}\n" for when_s, took_s in outcome.acknowledged)
        arguments.log.write_text(f"unix_s,took_s\n{rows}")
    lines = [f"{name:18} {value}" for name, value in document.items()]
    is_whole = not document["unacknowledged"] and not document["dropped"]
    return Report(document, "\n".join(lines), 0 if is_whole else NOT_ALL)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Return the plan that the options describe.

    Raises:
        UsageError: A number is out of range.
    """
    plan = Plan(**{name: getattr(arguments, name) for name in Plan.__dataclass_fields__})
    for name in ("report_s", "event_s", "flap_s"):
        if getattr(plan, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')}: want more than 0")
    for name in ("flapping", "bad_clocks"):
        if not 0 <= getattr(plan, name) <= 1:
            raise UsageError(f"--{name.replace('_', '-')}: want a share from 0 to 1")
    return plan


def enrol(client: FleetClient, folder: Path, prefix: str, count: int) -> list[Identity]:
    """Return enrolled devices, with one token for all that are missing."""

    def claim(uses: int) -> str:
        body = {"uses": uses, "expires_h": 24, "label": "edgekit-fleet simulate"}
        return str(client.json("POST", "/api/v1/claims", body)["token"])

    def enroll(request: wire.EnrollRequest) -> wire.EnrollResponse:
        body = msgspec.to_builtins(request)
        return msgspec.convert(client.json("POST", "/api/v1/enroll", body), wire.EnrollResponse)

    return enrolled(folder, prefix, count, claim, enroll)


def _show(counts: dict[str, int]) -> None:
    print(
        f"\r{counts['up']} connected, {counts['unacknowledged']} unacknowledged   ", end="", file=sys.stderr
    )
