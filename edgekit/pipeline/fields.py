"""Which fields of a line of text are a sample's values, and which one is its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

from edgekit.pipeline.check import Options

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MOST_LETTERS = 32
SHOWN_LETTERS = 120


class FieldOptions(Options, frozen=True, kw_only=True):
    """The keys that make lines fit a model: shared by the sources of text.

    ``columns``: the fields that are the model's values, in its order, by number from 0 or, with ``header``,
    by name; empty: every field but the time. ``separator``: between fields. ``decimal_comma``: 1,5 is one and
    a half. ``timestamp``: the field with the sample's time, by number or name, ``timestamp_unit`` what it
    counts ("iso": text such as 2026-11-27T12:00:00Z).
    """

    columns: tuple[int | str, ...] = ()
    separator: str = ""
    decimal_comma: bool = False
    header: bool = False
    timestamp: int | str = ""
    timestamp_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"

    def problems(self) -> Iterator[str]:
        """Report what cannot be told apart."""
        if len(self.separator) > 1:
            yield f"separator: want one character, got {self.separator!r}"
        if self.decimal_comma and self.separator == ",":
            yield 'separator: want another one than "," with decimal_comma'
        named = self.named()
        if named and not self.header:
            yield f"columns: want numbers from 0, or header = true, got {named[0]!r}"
        if any(isinstance(at, int) and at < 0 for at in (*self.columns, self.timestamp)):
            yield "columns: want numbers from 0"

    def named(self) -> list[str]:
        """Return the names among the columns."""
        return [name for name in (*self.columns, self.timestamp) if isinstance(name, str) and name]


class Row(NamedTuple):
    """A sample's values, and its time in seconds, None without a ``timestamp``."""

    values: tuple[Any, ...]
    time_s: float | None


class FieldMap:
    """Picks a sample's values out of a line's fields.

    >>> fields = FieldMap(FieldOptions(header=True, columns=("x", "y"), timestamp="t"), 2)
    >>> fields.row(["t", "y", "x"]), fields.row(["0.5", "2", "1"])
    (None, Row(values=(1.0, 2.0), time_s=0.5))

    Args:
        options: The mapping.
        count: How many values a sample has.
        takes_text: Give the values as they stand; without it each is a number.
    """

    def __init__(self, options: FieldOptions, count: int, *, takes_text: bool = False) -> None:
        self._options, self._count = options, count
        self._value: Callable[[str], Any] = self._text if takes_text else self._number
        self._names: list[str] | None = None
        self.problem = ""
        """Why the last line that does not fit does not; empty for a header line."""

    def took_header(self, fields: Sequence[str]) -> bool:
        """Return whether a line is the header, which may come again when a device restarts."""
        names = [name.strip() for name in fields]
        named = self._options.named()
        is_header = all(name in names for name in named) if named else has_names(names)
        if not (self._options.header and is_header):
            return False
        self._names = names
        return True

    def row(self, fields: Sequence[str]) -> Row | None:
        """Return a line's sample; None for the header and for a line that does not fit."""
        self.problem = ""
        if self.took_header(fields):
            return None
        try:
            return self._row(fields)
        except ValueError as problem:
            self.problem = str(problem)
            return None

    def _row(self, fields: Sequence[str]) -> Row:
        options = self._options
        time_at = None if options.timestamp == "" else self._at(options.timestamp)
        chosen = [self._at(column) for column in options.columns]
        if not options.columns:
            chosen = [at for at in range(len(fields)) if at != time_at]
        if len(chosen) != self._count:
            raise ValueError(self._wrong_count(len(fields), len(chosen)))
        missing = [at for at in (*chosen, time_at or 0) if at >= len(fields)]
        if missing:
            raise ValueError(f"want a field {missing[0]}, got {len(fields)} fields")
        time_s = None if time_at is None else self._time_s(fields[time_at])
        return Row(tuple(self._value(fields[at]) for at in chosen), time_s)

    def _at(self, column: int | str) -> int:
        if isinstance(column, int):
            return column
        if self._names is None:
            raise ValueError(f"want a header line with {column!r} first")
        return self._names.index(column)

    def _wrong_count(self, fields: int, chosen: int) -> str:
        text = f"want {self._count} values, got {chosen}"
        if chosen > self._count and not self._options.columns:
            numbers = ", ".join(map(str, range(fields - self._count, fields)))
            text += f"; if the first is a time or a number: columns = [{numbers}]"
        return text

    def _text(self, field: str) -> str:
        text = field.strip()
        return text.replace(",", ".") if self._options.decimal_comma and _is_number(text, ",") else text

    def _number(self, field: str) -> float:
        text = field.strip()
        if self._options.decimal_comma:
            text = text.replace(",", ".")
        try:
            value = float(text) if len(text) <= _MOST_LETTERS else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"want a number, got {field[:_MOST_LETTERS]!r}")
        return value

    def _time_s(self, field: str) -> float:
        unit = self._options.timestamp_unit
        if unit != "iso":
            return self._number(field) * _UNITS[unit]
        text = field.strip()
        if text.endswith(("Z", "z")):  # Python 3.10 does not read it
            text = text[:-1] + "+00:00"
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"want a time such as 2026-11-27T12:00:00Z, got {field[:40]!r}") from None
        return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def has_names(fields: Sequence[str]) -> bool:
    """Return whether a line may be a header: it has fields, and none is a number."""
    return bool(fields) and not any(_is_number(field) for field in fields)


def _is_number(text: str, point: str = ".") -> bool:
    try:
        float(text.replace(point, "."))
    except ValueError:
        return False
    return True
