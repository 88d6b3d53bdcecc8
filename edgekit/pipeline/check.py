"""Turn a table of a configuration into a structure, and report every problem in it at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edgekit.core.structure import structure_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that one table takes; subclasses hold the defaults."""

    def problems(self) -> Iterable[str]:
        """Return ``key: want X, got Y`` for each value that its type alone does not refuse."""
        return ()


S = TypeVar("S", bound=Options)


def check_table(table: object, kind: type[S], where: str, problems: list[str]) -> S | None:
    """Convert a table into a structure, key by key, so that one mistake does not hide another.

    Args:
        table: What the configuration holds there.
        kind: The structure it must become.
        where: The dotted name of the table, for the messages.
        problems: Takes one ``key: want X, got Y`` for each mistake.

    Returns:
        The structure, or None where there was a mistake.
    """
    found = structure_problems(table, kind, where)
    if found:
        problems += found
        return None
    checked = msgspec.convert(table, kind)
    found = [f"{where}.{problem}" for problem in checked.problems()]
    problems += found
    return None if found else checked


def load_target(target: str) -> Any:
    """Import what ``"module:name"`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def kind_problem(kind: object, table: Mapping[str, str], where: str) -> str | None:
    """Return why a kind cannot be used, or None where the table has it."""
    built = ", ".join(sorted(name for name, target in table.items() if target))
    if not isinstance(kind, str) or kind not in table:
        return f"{where}: want one of {built}, got {kind!r}"
    return None if table[kind] else f"{where}: {kind!r} is known, but not yet built; use one of {built}"
