"""Turn a table of a configuration into a structure, and report every problem in it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgekit.core.structure import structure_problems

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgekit.base.plugins import Rows


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


def kind_problem(kind: object, rows: Rows, where: str) -> str | None:
    """Return why a kind cannot be used, or None where a row is built in or a package adds it."""
    if not isinstance(kind, str):
        return f"{where}: want one of {', '.join(rows.names())}, got {kind!r}"
    if rows.target(kind):
        return None
    if kind in rows.built_in:
        return f"{where}: {kind!r} is known, but not yet built; use one of {', '.join(rows.names())}"
    return f"{where}: {rows.missing(kind)}"
