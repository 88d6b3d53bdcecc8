"""Commands of other distributions, added by entry points of the group ``edgekit.commands``.

An entry point names a module like those of ``edgekit.cli``. Reading entry points takes 50 ms, so it is
done only if no built-in command is named.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint
from types import ModuleType

from edgekit.base.command_line import Command
from edgekit.base.plugins import COMMANDS, plugins
from edgekit.core.errors import ConfigError

# name: (distribution that has it, what it does, example); listed by --help whether installed or not
KNOWN: dict[str, tuple[str, str, str]] = {
    "zoo": (
        "edgekit-optimize",
        "list the model zoo, or build one of its bundles",
        "edgekit zoo build blazeface -o .",
    ),
    "optimize": (
        "edgekit-optimize[tools]",
        "make one trained model into the fastest variant of every board that keeps its accuracy",
        "edgekit optimize model.onnx --data pictures -o classifier.ekb --targets rpi5,coral-usb",
    ),
}


def other_commands() -> dict[str, Command]:
    """Return the commands of other distributions by name, without importing them."""
    points = plugins(COMMANDS)
    table: dict[str, Command] = {}
    for name in sorted(KNOWN.keys() | points.keys()):
        row = KNOWN.get(name)
        summary = row[1] if row else f"added by {points[name].value}"
        example = row[2] if row else f"edgekit {name} --help"
        load = functools.partial(_load, name, points.get(name))
        table[name] = Command(summary, example, load, "on a workstation" if row else "plug-ins")
    return table


def _load(name: str, point: EntryPoint | None) -> ModuleType:
    if point is None:
        raise ConfigError(
            f"'edgekit {name}' is a command of another distribution, which is not installed",
            hint=f"on a workstation: pip install '{KNOWN[name][0]}'",
        )
    try:
        return importlib.import_module(point.value)
    except ImportError as cause:
        raise ConfigError(f"'edgekit {name}' ({point.value}) cannot be imported: {cause}") from cause
