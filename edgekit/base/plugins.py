"""Rows that other distributions add by entry points, read only for names that are not built in.

It takes 50 ms and 1.5 MB, so the supervisor never does. An entry point's name is the row's, its value the
target ``module:attribute``, as in the built-in tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.core.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

COMMANDS = "edgekit.commands"
SOURCES = "edgekit.sources"
SINKS = "edgekit.sinks"
DECODERS = "edgekit.decoders"
ACCELERATORS = "edgekit.accelerators"
READERS = "edgekit.readers"
STAGES = "edgekit.stages"


def plugins(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; nothing is imported."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def plugin_target(group: str, name: str) -> str:
    """Return a plug-in's ``module:attribute``; empty where none has that name."""
    point = plugins(group).get(name)
    return point.value if point is not None else ""


def load_target(target: str) -> Any:
    """Return the imported object of ``"module:name"``.

    Raises:
        ConfigError: It cannot be imported, or does not exist.
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
    """A table: built-in rows (name: target) and those of an entry-point group.

    >>> Rows({"jsonl": "edgekit.pipeline.sinks.jsonl:JsonlSink"}, SINKS).target("nonesuch")
    ''
    """

    built_in: Mapping[str, str]
    group: str

    def target(self, name: str) -> str:
        """Return the target of a name; empty where there is none."""
        return self.built_in[name] if name in self.built_in else plugin_target(self.group, name)

    def load(self, name: str) -> Any:
        """Return the imported row.

        Raises:
            ConfigError: A package's row cannot be loaded.
        """
        return load_target(self.target(name))

    def names(self) -> list[str]:
        """Return every name that can be used."""
        return sorted(self.built_in.keys() | plugins(self.group).keys())

    def missing(self, name: str) -> str:
        """Return the message for an unknown name."""
        known = ", ".join(self.names())
        return f"want one of {known}, got {name!r}, which no installed package adds (group {self.group})"
