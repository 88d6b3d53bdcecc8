"""``edgekit agent``: enrol this device, run its agent, show its state, install, roll back, show a ledger."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError

if TYPE_CHECKING:
    from edgekit.update.contract import EnrollOrder

DEFAULT_FILE = Path("agent.toml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        sub.add_argument("--state", type=Path, metavar="DIR", help="the state folder")
        sub.add_argument("--config", type=Path, metavar="FILE", help="agent.toml (its state folder is used)")
        return sub

    enroll = add("enroll", "enrol this device", "edgekit agent enroll --fleet http://fleet:8080 --token T")
    enroll.add_argument("--fleet", default="", metavar="URL", help="the fleet manager's address")
    enroll.add_argument("--token", default="", metavar="T", help="a claim token, or @FILE that holds one")
    enroll.add_argument("--request", type=Path, metavar="FILE", help="write a request to carry to the fleet")
    enroll.add_argument("--answer", type=Path, metavar="FILE", help="take the answer that was carried back")
    enroll.add_argument("--name", default="", help="what the fleet shall call this device")
    add("run", "run the agent", "edgekit agent run --config agent.toml")
    add("status", "ask the agent's state", "edgekit agent status")
    add("reload", "read agent.toml again and change only what differs", "edgekit agent reload")
    rollback = add("rollback", "go back to the previous version of a model", "edgekit agent rollback")
    rollback.add_argument("model", nargs="?", default="", metavar="MODEL", help="the only one if not given")
    rollback.add_argument("--reason", default="asked for on the device")
    _add_switch(add)
    install = add(
        "install", "install a bundle that was carried here", "edgekit agent install /media/stick/door.ekb"
    )
    install.add_argument("bundle", type=Path, metavar="BUNDLE", help="what 'edgekit-fleet export' wrote")
    outbox = add(
        "outbox",
        "carry the outbox to the fleet in a file, and its answer back",
        "edgekit agent outbox export /media/stick/box.outbox",
    )
    outbox.add_argument("what", choices=("export", "acknowledge"))
    outbox.add_argument("file", type=Path, metavar="FILE", help="to write, or the fleet's answer")
    ledger = add("ledger", "show what left the device, and what was refused", "edgekit agent ledger")
    ledger.add_argument("--hours", type=float, default=24.0, help="how far back (default: 24)")


def _add_switch(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    switch = add("switch", "stop or start a pipeline, or choose its profile", "edgekit agent switch door off")
    switch.add_argument("pipeline", metavar="PIPELINE")
    switch.add_argument("to", metavar="on|off|auto|PROFILE")
    switch.add_argument("--reason", default="asked for on the device")


def run(args: argparse.Namespace) -> Report:
    """Run the chosen action."""
    return _ACTIONS[args.action](args)


def agent_file(args: argparse.Namespace) -> Path | None:
    """Return the agent's file: from the flag, the environment, or ``agent.toml`` in this folder."""
    from edgekit.agent.config import environment

    if config := args.config or environment().config:
        return Path(config)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def state_folder(args: argparse.Namespace) -> Path:
    """Return the state folder: from the flags, the agent's file, or the environment."""
    from edgekit.agent.config import agent_identity
    from edgekit.base.paths import state_dir

    if args.state is not None:
        return Path(args.state).expanduser().resolve()
    file = agent_file(args)
    return agent_identity(file)[0] if file else state_dir().resolve()


def _enroll(args: argparse.Namespace) -> Report:
    from edgekit.update.contract import EnrollOrder
    from edgekit.update.launch import require_libraries, run_enroll

    ways = [bool(args.fleet or args.token), args.request is not None, args.answer is not None]
    if sum(ways) != 1 or bool(args.fleet) != bool(args.token):
        raise UsageError(
            "how is this device enrolled? over a link with --fleet URL --token T;"
            " or by files with --request FILE, then --answer FILE",
            hint="edgekit-fleet token create --enroll makes the token",
        )
    require_libraries("'edgekit agent enroll'")  # before a minute of proofs
    if args.answer is not None:
        order = EnrollOrder(answer=args.answer.read_text("utf-8"), state_dir=str(state_folder(args)))
    else:
        order = _order(args)
    if args.request is not None:
        return _write_request(order, args.request)
    enrolment = run_enroll(order)
    device, fleet = enrolment.device, enrolment.fleet_url
    document = {"device": device, "fleet": fleet, "broker": enrolment.broker_url, "state": order.state_dir}
    return Report(document, f"enrolled as {device} with {fleet}\nnext: edgekit agent run")


def _order(args: argparse.Namespace) -> EnrollOrder:
    from edgekit.agent.config import agent_identity
    from edgekit.model.doctor import facts_with_proofs
    from edgekit.update.contract import EnrollOrder

    file = agent_file(args)
    name = agent_identity(file)[1] if file else ""
    token = args.token
    if token.startswith("@"):
        token = Path(token[1:]).read_text(encoding="utf-8").strip()
    facts, _ = facts_with_proofs(Path("/"))
    return EnrollOrder(
        fleet_url=args.fleet,
        token=token,
        state_dir=str(state_folder(args)),
        name=args.name or name or os.uname().nodename.partition(".")[0],
        hardware=facts,
    )


def _write_request(order: EnrollOrder, file: Path) -> Report:
    import msgspec

    from edgekit.update.launch import run_request

    request = run_request(order)
    file.write_bytes(msgspec.json.encode(request))
    text = f"{file} is the request of {request.name}; carry it to the fleet: edgekit-fleet enroll {file.name}"
    text += " -o ANSWER, and back: edgekit agent enroll --answer ANSWER"
    return Report({"request": str(file), "name": request.name, "state": order.state_dir}, text)


def _install(args: argparse.Namespace) -> Report:
    from edgekit.agent.status import ask
    from edgekit.update.carried import bring

    state = state_folder(args)
    bring(args.bundle, state)
    answer: dict[str, Any] = ask(state, {"op": "install"})
    return Report(answer, answer["message"])


def _outbox(args: argparse.Namespace) -> Report:
    from edgekit.cli.outbox import acknowledge_outbox, export_outbox

    act = export_outbox if args.what == "export" else acknowledge_outbox
    return act(state_folder(args), args.file)


def _run(args: argparse.Namespace) -> NoReturn:
    """Check the configuration and every pipeline, then exec the supervisor, whose process is smaller.

    Where releases of the agent are installed, the launcher chooses one first, and that one comes here again.
    """
    from edgekit.agent.config import environment, load_agent_config
    from edgekit.pipeline.config import config_problems

    path = agent_file(args) or DEFAULT_FILE
    if not environment().launched and ((state := state_folder(args)) / "agent").is_dir():
        _become("edgekit.agent.launcher", path, state, args)
    config = load_agent_config(path, args.state, config_problems)
    _become("edgekit.agent", path, config.state, args)


def _become(module: str, config: Path, state: Path, args: argparse.Namespace) -> NoReturn:
    flags = [f"--{flag}" for flag in ("json", "verbose") if getattr(args, flag, False)]
    sys.stdout.flush()
    command = [sys.executable, "-m", module, str(config), str(state), *flags]
    os.execv(sys.executable, command)  # noqa: S606 - no shell


def _status(args: argparse.Namespace) -> Report:
    from edgekit.agent.status import ask

    document: dict[str, Any] = ask(state_folder(args), {"op": "status"})
    return Report(document, status_text(document))


def status_text(document: dict[str, Any]) -> str:
    """Return the status as text."""
    link = "connected" if document["link"]["connected"] else f"not connected: {document['link']['problem']}"
    if refusal := document["link"].get("refusal"):
        link += f"; the fleet refused a message: {refusal}"
    who = f"{document['device'] or 'this device'} ({document['profile'] or 'no profile yet'})"
    lines = [
        f"{who}, {link}, desired {document['desired']}, up {document['uptime_s']:.0f} s",
        f"  supervisor: process {document['pid']}, {document['rss_mb']} MB",
    ]
    for name, row in document["pipelines"].items():
        lines += _pipeline_lines(name, row)
    for name, row in document["models"].items():
        update = document["updates"].get(name, {})
        lines.append(
            f"  model {name}: active {row['active'] or '-'}, previous {row['previous'] or '-'}, "
            f"update {update.get('state', '-')}"
        )
    lines += [line for row in document.get("serving", ()) for line in _served_lines(row)]
    lines += [f"  rejected {key}: {reason}" for key, reason in document["rejected"].items()]
    lines += _camera_lines(document.get("cameras", {}))
    if measuring := document.get("measuring"):
        lines.append(f"  measuring: {measuring['job']} {measuring['state']} {measuring['why']}".rstrip())
    outbox = document["outbox"]
    lines.append(
        f"  outbox: {outbox['rows']} messages, {outbox['bytes']} bytes, {outbox['dropped']} given up"
    )
    lines += [f"  {name}: {value:g}" for name, value in document["sensors"].items()]
    return "\n".join(lines)


def _pipeline_lines(name: str, row: dict[str, Any]) -> list[str]:
    from edgekit.cli.run import broker_text, source_lines

    pace = f"{row['fps']} frames/s, p95 {row['p95_ms']} ms"
    runs = f"{row['model']} {row['version'] or '-'} on {row['variant'] or '-'}"
    counts = f"{row['errors']} errors, {row['restarts']} restarts"
    lines = [f"  pipeline {name}: {row['state']}, {runs}, {pace}, {counts}"]
    if row.get("changes"):
        lines.append(f"    budget: {row['setting'] or 'nothing is given up'} ({row['changes']} changes)")
    lines += _switch_lines(row.get("switch", {}))
    if row["message"]:
        lines.append(f"    {row['message'].splitlines()[0]}")
    lines += [f"    {why}" for why in row["why"].splitlines()]
    for stage in row.get("stages", ())[1:]:
        runs = stage["model"]
        if stage.get("version"):  # a function of the user's has none
            runs += f" {stage['version']} on {stage['variant']}"
        lines.append(f"    stage {stage['name']}: {runs}, {stage.get('errors', 0)} errors")
    lines += [f"    excluded for now: {name}: {why}" for name, why in row.get("excluded", {}).items()]
    lines += [f"    {line}" for line in source_lines(row["source"])]
    lines += [f"    {broker_text(state)}" for state in row["brokers"]]
    return lines


def _camera_lines(cameras: dict[str, Any]) -> list[str]:
    names, problem = cameras.get("names", ()), cameras.get("problem", "")
    lines = [f"  cameras of the fleet: {', '.join(names)}"] if names else []
    return [*lines, f"  camera list: {problem}"] if problem else lines


def _switch_lines(turned: dict[str, Any]) -> list[str]:
    if not turned:
        return []
    profile = f", profile {turned['profile']}" if turned["profile"] else ""
    return [f"    switched {'on' if turned['is_on'] else 'off'}{profile}: {turned['why']}"]


def _served_lines(row: dict[str, Any]) -> list[str]:
    """Return the lines of a model whose versions share requests, or that is served beside the pipelines'."""
    lines = [
        f"  served {row['model']}: {', '.join(f'{v} {p} %' for v, p in row['split'].items()) or 'newest'}"
    ]
    for each in row["versions"]:
        line = f"    {each['version']}: {each['state']} {each['reason']}".rstrip()
        line += f", {each['requests']} answered"
        if shadow := each["shadow"]:
            line += f"; of {shadow['pairs']} that {shadow['version']} was asked too, "
            line += f"{shadow['disagreed']} differ, {shadow['failed']} failed, {shadow['skipped']} skipped"
        lines.append(line)
    return lines + [f"    {version}: not served now" for version in row["missing"]]


def _reload(args: argparse.Namespace) -> Report:
    """Check the configuration and every pipeline, then have the agent read it."""
    from edgekit.agent.config import load_agent_config
    from edgekit.agent.status import ask
    from edgekit.pipeline.config import config_problems

    load_agent_config(agent_file(args) or DEFAULT_FILE, args.state, config_problems)
    document: dict[str, Any] = ask(state_folder(args), {"op": "reload"})
    return Report(document, document["message"])


def _rollback(args: argparse.Namespace) -> Report:
    from edgekit.agent.offline_rollback import roll_back_offline
    from edgekit.agent.status import ask_if_running

    state = state_folder(args)
    answer = ask_if_running(state, {"op": "rollback", "model": args.model, "reason": args.reason})
    if answer is not None:
        return Report({**answer, "agent": "running"}, answer["message"])
    model, version = roll_back_offline(state, args.model, args.reason)
    message = f"{model} runs {version} from the agent's next start on"
    return Report({"model": model, "version": version, "message": message, "agent": "not running"}, message)


def _switch(args: argparse.Namespace) -> Report:
    from edgekit.agent.status import ask

    request = {"op": "switch", "pipeline": args.pipeline, "to": args.to, "reason": args.reason}
    answer: dict[str, Any] = ask(state_folder(args), request)
    return Report(answer, answer["message"])


def _ledger(args: argparse.Namespace) -> Report:
    from edgekit.agent.offline_rollback import read_ledger
    from edgekit.agent.status import ask_if_running

    if args.hours <= 0:
        raise UsageError(f"--hours: want more than 0, got {args.hours}")
    state = state_folder(args)
    since = int(time.time() - args.hours * 3600)
    entries = ask_if_running(state, {"op": "ledger", "since_unix_s": since})
    if entries is None:
        entries = read_ledger(state, since)
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(row['start_unix_s']))}  {row['pipeline'] or '-':<16} "
        f"{row['data_class']:<10} {row['destination']:<8} {row['decision']:<8} {row['count']:>8} "
        f"{row['bytes']:>12} bytes"
        for row in entries
    ]
    return Report(
        {"entries": entries}, "\n".join(lines) or "nothing left this device, and nothing was refused"
    )


_ACTIONS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "enroll": _enroll,
    "run": _run,
    "status": _status,
    "reload": _reload,
    "rollback": _rollback,
    "switch": _switch,
    "install": _install,
    "outbox": _outbox,
    "ledger": _ledger,
}
