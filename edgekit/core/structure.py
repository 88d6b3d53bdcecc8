"""Decode data into structures, and report every mistake as ``key: want X, got Y``."""

import enum
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from edgekit.core.errors import ConfigError, EdgekitError

T = TypeVar("T")
_EXPECTED = re.compile(r"Expected (?P<want>.*?)(?:, got (?P<got>.*?))?(?: - at `\$(?P<at>.*)`)?$", re.DOTALL)
_UNIONS = (typing.Union, types.UnionType)
_MOST_SHOWN = 80


def decode_json(data: bytes, kind: type[T], what: str, error: type[EdgekitError]) -> T:
    """Return JSON decoded into a structure.

    Raises:
        EdgekitError: Of class ``error``: it is not JSON, or has wrong fields; each is named.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        problems = _json_problems(data, kind) or [str(cause)]
        raise error(f"{what}: {problems[0]}", reasons=tuple(problems[1:])) from cause


def _json_problems(data: bytes, kind: Any) -> list[str]:
    try:
        return structure_problems(msgspec.json.decode(data), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def decode_toml(data: str, kind: type[T], what: str) -> T:
    """Return TOML decoded into a structure.

    Raises:
        ConfigError: The text is not TOML, or has wrong fields; ``reasons`` has one
            ``file:key: want X, got Y`` for each.
    """
    try:
        raw = msgspec.toml.decode(data.removeprefix("\ufeff"))
    except (msgspec.DecodeError, ValueError) as cause:
        raise ConfigError(f"{what}: not TOML: {cause}") from cause
    if problems := structure_problems(raw, kind):
        raise ConfigError(
            f"{what} is not valid",
            reasons=tuple(f"{what}:{problem}" for problem in problems),
            hint="see docs/configuration.md for every key",
        )
    return msgspec.convert(raw, type=kind)


def structure_problems(raw: Any, kind: Any, where: str = "") -> list[str]:
    """Return ``key: want X, got Y`` for every field of decoded data that does not fit a type.

    >>> class Sink(msgspec.Struct, forbid_unknown_fields=True):
    ...     kind: typing.Literal["jsonl", "mqtt"]
    ...     rates: tuple[int, ...] = ()
    >>> for problem in structure_problems({"kind": "mqqt", "rates": [1, "2"], "url": ""}, Sink, "sink[0]"):
    ...     print(problem)
    sink[0].url: want one of kind, rates, got an unknown key
    sink[0].kind: want one of 'jsonl', 'mqtt', got 'mqqt'
    sink[0].rates[1]: want an int, got '2'
    """
    try:
        msgspec.convert(raw, type=kind)
    except (msgspec.ValidationError, ValueError) as cause:
        return list(_problems_inside(raw, _plain(kind), where)) or [_explain(raw, kind, where, str(cause))]
    return []


def _problems_inside(raw: Any, kind: Any, where: str) -> Iterator[str]:
    """Yield the problems inside a table or list; nothing where the value itself is wrong."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(raw, dict):
        yield from _struct_problems(raw, kind, where)
    elif origin in (list, tuple, set, frozenset) and isinstance(raw, (list, tuple)):
        of_each = args[:1] * len(raw) if origin is not tuple or args[1:] == (...,) else args
        for index, (entry, entry_kind) in enumerate(zip(raw, of_each, strict=False)):
            yield from structure_problems(entry, entry_kind, f"{where}[{index}]")
    elif origin is dict and isinstance(raw, dict):
        for key, entry in raw.items():
            yield from structure_problems(entry, args[1], f"{where}.{key}" if where else str(key))


def _struct_problems(raw: dict[Any, Any], kind: type[msgspec.Struct], where: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    prefix = f"{where}." if where else ""
    config = kind.__struct_config__
    if config.forbid_unknown_fields:
        known = ", ".join(sorted(fields))
        for key in raw:
            if key not in fields and key != config.tag_field:
                yield f"{prefix}{key}: want one of {known}, got an unknown key"
    for key, field in fields.items():
        if key in raw:
            yield from structure_problems(raw[key], field.type, prefix + key)
        elif field.required:
            yield f"{prefix}{key}: want {_type_name(field.type)}, got nothing"


def _explain(raw: Any, kind: Any, where: str, message: str) -> str:
    value = repr(raw)
    got = value if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]}..."
    where = where or "(top)"
    if choices := _choices(kind):
        return f"{where}: want one of {', '.join(map(repr, choices))}, got {got}"
    expected = _EXPECTED.match(message)
    if expected is None:
        return f"{where}: {message}, got {got}"
    want = expected["want"].replace("`", "").replace("array", "list").replace("object", "table")
    return f"{where}{expected['at'] or ''}: want {_article(want)}{want}, got {got}"


def _article(want: str) -> str:
    if want[:1].isdigit() or want.startswith("one of"):
        return ""
    return "an " if want[:1] in "aeiou" else "a "


def _choices(kind: Any) -> list[Any]:
    """Return the values of a closed type (``Literal``, an enum) without None; else empty."""
    if typing.get_origin(kind) in _UNIONS:
        parts = [_choices(part) for part in typing.get_args(kind) if part is not type(None)]
        return [choice for part in parts for choice in part] if all(parts) else []
    kind = _plain(kind)
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [member.value for member in kind] if isinstance(kind, type) and issubclass(kind, enum.Enum) else []


def _plain(kind: Any) -> Any:
    """Return a type without annotations and without the None of an optional."""
    if typing.get_origin(kind) is typing.Annotated:
        return _plain(typing.get_args(kind)[0])
    if typing.get_origin(kind) in _UNIONS:
        parts = [part for part in typing.get_args(kind) if part is not type(None)]
        return _plain(parts[0]) if len(parts) == 1 else kind
    return kind


def _type_name(kind: Any) -> str:
    if choices := _choices(kind):
        return f"one of {', '.join(map(repr, choices))}"
    plain = _plain(kind)
    name = getattr(plain, "__name__", str(plain)) if typing.get_origin(plain) is None else str(plain)
    return f"{_article(name)}{name}"
