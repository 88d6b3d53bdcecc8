"""Metadata's texts as values: exporters print Python objects or JSON."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import msgspec

_LONGEST = 1 << 20


def literal(text: str) -> Any:
    """Return the value that a text prints, in JSON or as Python prints it; else the text itself.

    >>> literal("{0: 'cat'}"), literal("[640, 640]"), literal("True"), literal("detect")
    ({0: 'cat'}, [640, 640], True, 'detect')
    """
    if len(text) > _LONGEST:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def literals(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return ``literal`` of each text."""
    return {key: literal(text) for key, text in texts.items()}


def names_of(value: Any) -> tuple[str, ...]:
    """Return class names in the order of their numbers, from a list or a mapping of number to name.

    Empty where it is neither, or a number is missing.

    >>> names_of({"1": "dog", "0": "cat"}), names_of({0: "cat", 2: "dog"})
    (('cat', 'dog'), ())
    """
    if isinstance(value, Mapping):
        rows = {int(key): str(name) for key, name in value.items() if str(key).isdigit()}
        return tuple(rows[n] for n in range(len(rows))) if rows.keys() == set(range(len(value))) else ()
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
