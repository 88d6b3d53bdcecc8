"""The ``edgekit`` command: a table of commands, each in a file of its own, imported when it is named."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence

import msgspec

from edgekit import __version__
from edgekit.cli.report import Report
from edgekit.core.errors import EdgekitError, StorageError

INTERRUPTED = 130

# name: (module, what it does, example)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "doctor": (
        "edgekit.cli.doctor",
        "find the hardware, prove each backend, say what to fix",
        "edgekit doctor",
    ),
    "profiles": ("edgekit.cli.profiles", "list the known boards, or show one", "edgekit profiles rpi5"),
    "zoo": (
        "edgekit.cli.zoo",
        "list the model zoo, or build one of its bundles",
        "edgekit zoo build blazeface -o .",
    ),
    "explain": (
        "edgekit.cli.explain",
        "say which variant is chosen, and why each other one is not",
        "edgekit explain person-detect.ekb --profile rpi5",
    ),
    "bench": (
        "edgekit.cli.bench",
        "measure every variant that runs here; selection uses the result",
        "edgekit bench person-detect.ekb --seconds 5 --report",
    ),
    "verify": (
        "edgekit.cli.verify",
        "check hashes, manifest and golden samples on every variant that runs here",
        "edgekit verify person-detect.ekb",
    ),
    "optimize": (
        "edgekit.cli.optimize",
        "make one trained model into the fastest variant of every board that keeps its accuracy",
        "edgekit optimize model.onnx --data pictures -o classifier.ekb --targets rpi5,coral-usb",
    ),
    "run": ("edgekit.cli.run", "run a pipeline", "edgekit run door.toml --frames 100"),
    "serve": (
        "edgekit.cli.serve",
        "answer other processes over HTTP, by the Open Inference Protocol v2",
        "edgekit serve person-detect.ekb --port 8000",
    ),
    "agent": (
        "edgekit.cli.agent",
        "enrol this device, run its agent, ask its state",
        "edgekit agent run --config agent.toml",
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
        parser = _parser(command)
        parsed = parser.parse_args(words)
    except SystemExit as stop:  # argparse has said why on stderr
        return stop.code if isinstance(stop.code, int) else 2
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if parsed.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    as_json = bool(parsed.json)
    try:
        report: Report = importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
    except EdgekitError as error:
        return _fail(error, as_json=as_json)
    except OSError as cause:
        if cause.errno is None:
            raise
        return _fail(StorageError(f"{cause.filename or 'file'}: {cause.strerror}"), as_json=as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    try:
        _print(report, as_json=as_json)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_code


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgekit",
        description="Run compressed models on edge devices, unattended.",
        epilog="example: edgekit doctor",
    )
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
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


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(msgspec.to_builtins(report.document)))
    elif report.text:
        print(report.text)
    sys.stdout.flush()


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
