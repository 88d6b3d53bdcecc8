"""The ``edgekit-fleet`` command: a table of commands, each in a file of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence

import msgspec

from edgekit.core.errors import EdgekitError, StorageError
from edgekit_fleet import __version__
from edgekit_fleet.cli.report import Report

INTERRUPTED = 130

# name: (module, what it does, example)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "serve": (
        "edgekit_fleet.cli.serve",
        "run the fleet manager",
        "edgekit-fleet serve --data /var/lib/edgekit-fleet",
    ),
    "keys": (
        "edgekit_fleet.cli.keys",
        "make or rotate a publisher's keys",
        "edgekit-fleet keys init --keys ./keys",
    ),
    "publish": (
        "edgekit_fleet.cli.publish",
        "sign a bundle and hand it to the fleet",
        "edgekit-fleet publish person-detect.ekb --keys ./keys --data ./fleet-data",
    ),
    "token": (
        "edgekit_fleet.cli.token",
        "make a token that enrols devices, or one for the API",
        "edgekit-fleet token create --enroll --uses 10 --data ./fleet-data",
    ),
    "devices": ("edgekit_fleet.cli.devices", "list the devices", "edgekit-fleet devices --data ./fleet-data"),
    "rollout": (
        "edgekit_fleet.cli.rollout",
        "bring a bundle to devices in waves",
        "edgekit-fleet rollout create person-detect 3.2.0 --data ./fleet-data",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code.

    Exit codes: 0 done, 1 a bug, 2 usage, 3 configuration, 4 model or bundle, 5 backend or
    accelerator, 6 trust, 7 link or server, 8 a gate or budget was not met, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), None)
    try:
        parsed = _parser(command).parse_args(words)
    except SystemExit as stop:  # argparse has said why on stderr
        return stop.code if isinstance(stop.code, int) else 2
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if parsed.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    as_json = bool(parsed.json)
    try:
        report: Report | None = importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
    except EdgekitError as error:
        return _fail(error, as_json=as_json)
    except OSError as cause:
        if cause.errno is None:
            raise
        return _fail(StorageError(f"{cause.filename or 'file'}: {cause.strerror}"), as_json=as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if report is None:  # it has printed its one document while it ran
        return 0
    print(json.dumps(msgspec.to_builtins(report.document)) if as_json else report.text, flush=True)
    return report.exit_code


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgekit-fleet",
        description="Enrol devices, watch them, roll models out to them.",
        epilog="example: edgekit-fleet serve --data ./fleet-data",
    )
    parser.add_argument("--version", action="version", version=f"edgekit-fleet {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary, example) in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        if name == command:  # only the command that runs is imported
            importlib.import_module(module).add_arguments(sub)
        _common(sub)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    """Give every command, and every command of a command, the flags that all have."""
    for action in parser._actions:  # noqa: SLF001 - argparse offers no other way to reach nested parsers
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for nested in set(action.choices.values()):
                _common(nested)
            return
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--verbose", action="store_true", help="log more, on stderr")


def _fail(error: EdgekitError, *, as_json: bool) -> int:
    print(error.render(), file=sys.stderr)
    if as_json:
        document = {
            "error": {
                "code": error.code,
                "message": error.message,
                "reasons": list(error.reasons),
                "hint": error.hint,
            }
        }
        print(json.dumps(document))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
