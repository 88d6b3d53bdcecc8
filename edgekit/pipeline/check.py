"""Turns a table of a configuration into a structure, and reports all of its problems at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from edgekit.core.structure import structure_problems

if TYPE_CHECKING:  # so that the supervisor, which reads no plug-ins, can import this
    from edgekit.base.plugins import Rows


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of one table, with their defaults in a subclass."""

    def problems(self) -> Iterable[str]:
        """Return ``key: want X, got Y`` for each invalid value of a valid type."""
        return ()


Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
S = TypeVar("S", bound=Options)
_ONE_AT_A_TIME = threading.Lock()
"""msgspec prepares a type when it is first used, and two threads that do so at once crash the process: the
pipelines and models of one worker are checked in threads of their own.
"""


def check_table(table: object, kind: type[S], where: str, problems: list[str]) -> S | None:
    """Return a table as a structure, or None if it has mistakes.

    Args:
        table: The configuration's value.
        kind: The structure.
        where: The dotted name of the table, for the messages.
        problems: Receives one ``key: want X, got Y`` for each mistake.
    """
    with _ONE_AT_A_TIME:
        return _checked(table, kind, where, problems)


def _checked(table: object, kind: type[S], where: str, problems: list[str]) -> S | None:
    mistakes = structure_problems(table, kind, where)
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if mistakes and isinstance(table, dict):  # the values of the other keys are checked all the same
        table = {
            key: value
            for key, value in table.items()
            if key in types and not structure_problems(value, types[key])
        }
    if not structure_problems(table, kind):
        checked = msgspec.convert(table, kind)
        mistakes += [f"{where}.{problem}" for problem in checked.problems()]
        if not mistakes:
            return checked
    problems += mistakes
    return None


def kind_problem(kind: object, rows: Rows, where: str) -> str | None:
    """Return why a kind cannot be used; None if it is built in or a package adds it."""
    if not isinstance(kind, str):
        return f"{where}: want one of {', '.join(rows.names())}, got {kind!r}"
    if rows.target(kind):
        return None
    return f"{where}: {rows.missing(kind)}"
