"""``edgekit-fleet rollout``: bring a published version to devices in waves, watch it, stop it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any
from urllib.parse import quote

from edgekit.base.command_line import Report
from edgekit.core.errors import GateError
from edgekit_fleet.cli import target
from edgekit_fleet.registry.remote import FleetClient
from edgekit_fleet.rollout.plan import Spec, split_waves

_ROUTE = "/api/v1/rollouts"
_OPEN = ("draft", "running", "paused")
_WATCH_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="begin a rollout")
    target.add_arguments(create)
    _add_spec(create)
    show = actions.add_parser("show", help="show one rollout: waves, devices, log")
    target.add_arguments(show)
    show.add_argument("id", help="the rollout")
    show.add_argument(
        "--watch", action="store_true", help="follow it to its end; exit code 8 unless it is done"
    )
    listing = actions.add_parser("list", help="list rollouts, the newest first")
    target.add_arguments(listing)
    listing.add_argument("--model", default="", help="only rollouts of this model")
    listing.add_argument("--state", default="", help="only rollouts in this state")
    for action, about in (
        ("pause", "direct no further device; the guards stay active"),
        ("resume", "continue it, or begin a draft"),
        ("abort", "end it, and restore every device to what it ran before"),
    ):
        sub = actions.add_parser(action, help=about)
        target.add_arguments(sub)
        sub.add_argument("id", help="the rollout")
        sub.add_argument("--reason", default="", help="reason for the log")


def _add_spec(parser: argparse.ArgumentParser) -> None:
    default = Spec(model="", version="")
    parser.add_argument("--model", required=True, help="a published model")
    parser.add_argument("--version", required=True, help="a published version of it")
    parser.add_argument(
        "--waves",
        default=",".join(default.waves),
        help="numbers of devices, shares, or ids joined by +; default 1,25%%,100%%",
    )
    parser.add_argument(
        "--devices", default="", metavar="ID,ID", help="only these devices; default: all that run the model"
    )
    parser.add_argument(
        "--soak-s",
        type=int,
        default=default.soak_s,
        metavar="N",
        help="seconds of a device's trial, and of watching a wave",
    )
    parser.add_argument(
        "--p99-ratio", type=float, metavar="R", help="p99 at most R times the previous version's; 0: off"
    )
    parser.add_argument(
        "--error-ratio", type=float, metavar="E", help="share of frames that may fail; 0: off"
    )
    parser.add_argument("--max-failures", type=int, default=default.max_failures, metavar="N", help="devices")
    parser.add_argument("--success-ratio", type=float, default=default.success_ratio, metavar="S")
    parser.add_argument("--wave-timeout-s", type=int, default=default.wave_timeout_s, metavar="N")
    parser.add_argument("--draft", action="store_true", help="prepare it as a draft; 'resume' begins it")


def run(args: argparse.Namespace) -> Report:
    """Do one action.

    Raises:
        UsageError: There is no such rollout or version, or it cannot do that in its state.
        LinkError: The fleet cannot be reached.
    """
    client = target.opened_client(args)
    if args.action == "create":
        return _shown(client.json("POST", _ROUTE, _request(args)))
    if args.action == "list":
        page = client.json("GET", _ROUTE, params={"model": args.model, "state": args.state})
        return Report(page, "\n".join(map(line, page["items"])) or "no rollouts")
    path = f"{_ROUTE}/{quote(args.id, safe='')}"
    if args.action != "show":
        return _shown(client.json("POST", f"{path}/{args.action}", {"reason": args.reason}))
    if args.watch:
        return _watch(client, path)
    return _shown(client.json("GET", path))


def _request(args: argparse.Namespace) -> dict[str, Any]:
    """Return the request that the arguments of ``create`` stand for."""
    guards = {"p99_ratio": args.p99_ratio, "error_ratio": args.error_ratio}
    return {
        "model": args.model,
        "version": args.version,
        "waves": list(split_waves(args.waves)),
        "devices": [device.strip() for device in args.devices.split(",") if device.strip()],
        "soak_s": args.soak_s,
        "max_failures": args.max_failures,
        "success_ratio": args.success_ratio,
        "wave_timeout_s": args.wave_timeout_s,
        "guards": {name: value for name, value in guards.items() if value is not None},
        "draft": args.draft,
    }


def line(rollout: dict[str, Any]) -> str:
    """Return a rollout on one line."""
    reason = f": {rollout['reason']}" if rollout["reason"] else ""
    wave = f"wave {rollout['wave']}/{rollout['wave_count']}"
    return f"{rollout['id']}  {rollout['model']} {rollout['version']}  {rollout['state']}  {wave}{reason}"


def _shown(rollout: dict[str, Any]) -> Report:
    lines = [line(rollout), *map(_wave_line, rollout["waves"])]
    for device in rollout["devices"]:
        is_restored = device["restored_unix_ms"] and not device["directed"]
        is_told = device["outcome"] == "restored"
        state = f"{device['outcome']}{' (restored)' if is_restored and not is_told else ''}"
        why = f": {device['reason']}" if device["reason"] else ""
        lines.append(f"    {device['device']}  {'online ' if device['online'] else 'offline'}  {state}{why}")
    return Report(rollout, "\n".join(lines))


def _wave_line(wave: dict[str, Any]) -> str:
    counts = ", ".join(f"{wave[name]} {name}" for name in ("directed", "committed", "failed", "restored"))
    return f"  wave {wave['wave']} ({wave['asked']}): {wave['devices']} devices, {counts}"


def _watch(client: FleetClient, path: str) -> Report:
    """Follow a rollout until it is over, printing its log on stderr."""
    shown_ms = 0
    while True:
        rollout = client.json("GET", path)
        for entry in rollout["log"]:
            if entry["unix_ms"] > shown_ms:
                print(f"{rollout['id']}  {entry['text']}", file=sys.stderr, flush=True)
        shown_ms = max([shown_ms, *(entry["unix_ms"] for entry in rollout["log"])])
        if rollout["state"] not in _OPEN:
            report = _shown(rollout)
            code = 0 if rollout["state"] == "done" else GateError.exit_code
            return Report(report.document, report.text, code)
        time.sleep(_WATCH_S)
