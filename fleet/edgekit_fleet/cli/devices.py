"""``edgekit-fleet devices``: who is there and what they run."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.base.command_line import Report
from edgekit_fleet.cli import remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    remote.add_arguments(parser)
    parser.add_argument("--search", default=None, metavar="TEXT", help="only ids that contain this")
    parser.add_argument("--model", default=None, help="only devices that hold this model")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many (default 1000)")


def run(arguments: argparse.Namespace) -> Report:
    """List the devices, page by page."""
    fleet = remote.Remote.of(arguments)
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(found) < arguments.limit:
        limit = min(500, arguments.limit - len(found))
        page = fleet.get("devices", after=after, limit=limit, search=arguments.search, model=arguments.model)
        found += page["items"]
        after = page["next"]
    lines = [f"{'device':24} {'state':9} {'profile':18} models"]
    lines += [f"{one['id']:24} {_state(one):9} {one['profile']:18} {_models(one)}" for one in found]
    return Report({"devices": found, "more": after is not None}, "\n".join(lines))


def _state(device: dict[str, Any]) -> str:
    if device["state"] == "revoked":
        return "revoked"
    return "online" if device["online"] else "offline"


def _models(device: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(device["models"].items()))
