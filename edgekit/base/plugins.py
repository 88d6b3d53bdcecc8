"""Rows that other distributions add, by entry points; read only when a name is not built in.

Reading entry points takes 50 ms, so the supervisor never does. An entry point's name is the row's name,
its value the target, ``module:attribute`` as the built-in tables have it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from edgekit.core.errors import ConfigError

COMMANDS = "edgekit.commands"
SOURCES = "edgekit.sources"
SINKS = "edgekit.sinks"
DECODERS = "edgekit.decoders"
ACCELERATORS = "edgekit.accelerators"
READERS = "edgekit.readers"


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}


def plugin_target(group: str, name: str) -> str:
    """Return the ``module:attribute`` that a plug-in gives a name; empty where none is installed."""
    point = plugins(group).get(name)
    return point.value if point is not None else ""


def load_target(target: str) -> Any:
    """Import what ``"module:name"`` names.

    Raises:
        ConfigError: It cannot be imported, or the module has no such name.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as cause:
        raise ConfigError(
            f"{target} cannot be loaded: {cause}", hint="install its package again, or another version"
        ) from cause


@dataclass(frozen=True)
class Rows:
    """A table: the rows that are built in (name: target, empty where not yet built), and a group's.

    >>> Rows({"jsonl": "edgekit.pipeline.sinks.jsonl:JsonlSink"}, SINKS).target("nonesuch")
    ''
    """

    built_in: Mapping[str, str]
    group: str

    def target(self, name: str) -> str:
        """Return the target of a name; empty where there is none. Entry points are read for new names."""
        return self.built_in[name] if name in self.built_in else plugin_target(self.group, name)

    def load(self, name: str) -> Any:
        """Import a row.

        Raises:
            ConfigError: It is a package's, and cannot be loaded.
        """
        return load_target(self.target(name))

    def names(self) -> list[str]:
        """Return every name that can be used."""
        return sorted({name for name, target in self.built_in.items() if target} | plugins(self.group).keys())

    def missing(self, name: str) -> str:
        """Return what to say of a name that is neither built in nor added by a package."""
        known = ", ".join(self.names())
        return f"want one of {known}, got {name!r}, which no installed package adds (group {self.group})"
