"""``edgekit-fleet devices``: list the devices, and which models they run."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.base.command_line import Report
from edgekit_fleet.cli import target

_ROUTE = "/api/v1/devices"
_PAGE = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    target.add_arguments(parser)
    parser.add_argument("--search", default="", metavar="TEXT", help="only ids that contain this")
    parser.add_argument("--model", default="", help="only devices that have this model")
    parser.add_argument("--limit", type=int, default=1000, help="at most this many (default 1000)")


def run(arguments: argparse.Namespace) -> Report:
    """List the devices, page by page."""
    client = target.opened_client(arguments, needs_token=True)
    devices: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(devices) < arguments.limit:
        limit = str(min(_PAGE, arguments.limit - len(devices)))
        query = {"after": after, "limit": limit, "search": arguments.search, "model": arguments.model}
        page = client.json("GET", _ROUTE, params=query)
        devices += page["items"]
        after = page["next"]
    lines = [f"{'device':24} {'state':9} {'profile':18} models"]
    lines += [f"{row['id']:24} {_state(row):9} {row['profile']:18} {_models(row)}" for row in devices]
    return Report({"devices": devices, "more": after is not None}, "\n".join(lines))


def _state(device: dict[str, Any]) -> str:
    if device["state"] == "revoked":
        return "revoked"
    return "online" if device["online"] else "offline"


def _models(device: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(device["models"].items()))
