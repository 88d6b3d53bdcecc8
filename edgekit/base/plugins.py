"""Rows that other distributions add, by entry points; read only when a name is not built in.

Reading entry points takes 50 ms, so the supervisor never does. An entry point's name is the row's name,
its value the target, ``module:attribute`` as the built-in tables have it.
"""

from __future__ import annotations

import importlib
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


def missing(group: str, name: str, built_in: list[str]) -> str:
    """Return what to say of a row that is neither built in nor added by a package."""
    known = sorted({*built_in, *plugins(group)})
    return f"want one of {', '.join(known)}, got {name!r}; no installed package adds it (group {group})"
