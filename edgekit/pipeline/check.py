"""Turn a table of a configuration into a structure, and report every problem in it at once."""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TypeVar("S", bound=msgspec.Struct)
_EXPECTED = re.compile(r"Expected (?P<want>.*?)(?:, got (?P<got>.*?))?(?: - at `\$(?P<at>.*)`)?$", re.DOTALL)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that one table takes; subclasses hold the defaults."""


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
    if not isinstance(table, dict):
        problems.append(f"{where}: want a table, got {table!r}")
        return None
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    problems += [
        f"{where}.{key}: want one of {', '.join(sorted(fields))}, got an unknown key"
        for key in table
        if key not in fields
    ]
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in table:
            _check_value(table[key], field.type, f"{where}.{key}", values, field.name, problems)
        elif field.required:
            problems.append(f"{where}.{key}: want {_type_name(field.type)}, got nothing")
    return kind(**values) if len(problems) == before else None


def _check_value(
    value: object, kind: Any, where: str, values: dict[str, Any], name: str, problems: list[str]
) -> None:
    try:
        values[name] = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(explain(where, str(error), value))


def explain(where: str, message: str, value: object) -> str:
    """Return a validation message of msgspec as ``key: want X, got Y``.

    >>> explain("source.fps", "Expected `float` > 0.0", -1)
    'source.fps: want a float > 0.0, got -1'
    """
    found = _EXPECTED.match(message)
    if found is None:
        return f"{where}: {message}, got {value!r}"
    want = found["want"].replace("`", "")
    article = "" if want[:1].isdigit() or want.startswith(("one of", "array", "object")) else "a "
    return f"{where}{found['at'] or ''}: want {article}{want}, got {value!r}"


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


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
