"""The frame of ``edgekit`` and ``edgekit-fleet``: a table of commands; only the one that runs is imported.

A command's module has ``add_arguments(parser)`` and ``run(arguments)``, which returns a ``Report``, or None
when it has printed its document itself.
"""

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from edgekit.base.failures import failure_of
from edgekit.base.logs import log_to_stderr
from edgekit.core.errors import EdgekitError, StorageError, UsageError

INTERRUPTED = 130


@dataclass(frozen=True)
class Report:
    """The outcome of a command: the object for ``--json``, the text for people, and the exit code."""

    document: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True)
class Command:
    """One row of the ``group`` that the commands are listed by.

    ``load`` imports the module, or raises ``ConfigError`` where a distribution is missing.
    """

    summary: str
    example: str
    load: Callable[[], ModuleType]
    group: str = "commands"


@dataclass(frozen=True)
class Program:
    """A command line and its commands by name."""

    name: str
    description: str
    version: str
    example: str
    commands: Mapping[str, Command]


def command(module: str, summary: str, example: str, group: str = "commands") -> Command:
    """Return the row of a command whose module is always installed."""
    return Command(summary, example, lambda: importlib.import_module(module), group)


def overview(program: Program) -> str:
    """Return what a program is for, and its commands by group with one line each."""
    lines = [f"{program.name} {program.version}: {program.description}"]
    width = max(map(len, program.commands)) + 2
    for group in dict.fromkeys(row.group for row in program.commands.values()):
        rows = ((name, row.summary) for name, row in program.commands.items() if row.group == group)
        lines += ["", group, *(f"  {name:<{width}}{summary}" for name, summary in rows)]
    return "\n".join([*lines, "", f"{program.name} COMMAND --help has its options and an example"])


def run_program(program: Program, arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default ``sys.argv``) name and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(overview(program), file=sys.stderr)
        return UsageError.exit_code
    name = next((word for word in words if not word.startswith("-")), "")
    as_json = "--json" in words
    try:
        module = program.commands[name].load() if name in program.commands else None
        parsed = _parser(program, name, module).parse_args(words)
        log_to_stderr(logging.DEBUG if parsed.verbose else logging.INFO)
        assert module is not None  # argparse accepts only names of the table
        report: Report | None = module.run(parsed)
    except SystemExit as stop:  # argparse has printed the reason, or help
        _print("")
        return stop.code if isinstance(stop.code, int) else 2
    except EdgekitError as error:
        return _fail(error, as_json=as_json)
    except OSError as cause:
        if cause.errno is None:
            raise
        return _fail(StorageError(f"{cause.filename or 'file'}: {cause.strerror}"), as_json=as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if report is not None:
        _print(json.dumps(msgspec.to_builtins(report.document)) if as_json else report.text)
    return report.exit_code if report else 0


def _parser(program: Program, chosen: str, module: ModuleType | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program.name, description=program.description, epilog=f"example: {program.example}"
    )
    parser.add_argument("--version", action="version", version=f"{program.name} {program.version}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser
    )
    for name, row in program.commands.items():
        sub = subparsers.add_parser(
            name,
            help=row.summary,
            description=f"{row.summary[0].upper()}{row.summary[1:]}.",
            epilog=f"example: {row.example}",
        )
        if name == chosen and module is not None:  # only the command that runs is imported
            module.add_arguments(sub)
        _add_common_flags(sub)
    return parser


class _CommandParser(argparse.ArgumentParser):
    """Takes words before and after options, as in ``import MODEL -o BUNDLE KEY=VALUE``."""

    _is_inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what stands after the command's name, or after an action's."""
        is_group = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)  # noqa: SLF001 - as below
        if is_group or self._is_inside:  # what is called here calls this method
            return super().parse_known_args(args, namespace)
        self._is_inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_inside = False


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all commands and subcommands have."""
    for action in parser._actions:  # noqa: SLF001 - argparse offers no other way to reach nested parsers
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for nested in set(action.choices.values()):
                _add_common_flags(nested)
            return
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--verbose", action="store_true", help="log more, on stderr")


def _print(text: str) -> None:
    """Print what there is; a reader (head, less) that has seen enough is no error."""
    try:
        if text:
            print(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: EdgekitError, *, as_json: bool) -> int:
    print(error.render(), file=sys.stderr)
    if as_json:
        _print(json.dumps({"error": msgspec.to_builtins(failure_of(error))}))
    return error.exit_code
