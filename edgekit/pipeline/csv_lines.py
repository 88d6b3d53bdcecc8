"""The lines of a CSV file as a model's samples: separator and header are recognised, or stated."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TextIO, TypeVar

import msgspec

from edgekit.pipeline.fields import FieldMap, FieldOptions, Row, has_names
from edgekit.pipeline.framing import split_fields

_MOST_LETTERS = 1 << 20
_SEPARATORS = ",;\t|"
Options = TypeVar("Options", bound=FieldOptions)


class Line(NamedTuple):
    """A line's sample, or None and why it is none."""

    row: Row | None
    problem: str
    fields: Sequence[str]


def csv_lines(file: TextIO, options: FieldOptions, columns: tuple[str, ...], count: int) -> Iterator[Line]:
    """Return the lines of a file, without the header and empty ones.

    Args:
        file: Open at its beginning, with ``newline=""``.
        options: Which fields are the sample's values.
        columns: Of a model of tables, whose values may be texts; else empty.
        count: How many values a sample has.

    Raises:
        csv.Error: A field or a line is too long.
    """
    whole = _whole_lines(file)
    first = next(whole, "")
    options = _options_for(first, options, columns)
    whole = chain([first], whole)
    lines: Iterable[list[str]] = (split_fields(line.strip(), options) for line in whole)
    if options.separator:
        lines = csv.reader(whole, delimiter=options.separator)
    return sample_lines(lines, options, count, takes_text=bool(columns))


def _whole_lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MOST_LETTERS):
        if len(line) == _MOST_LETTERS:
            raise csv.Error(f"a line is longer than {_MOST_LETTERS} letters")
        yield line


def sample_lines(
    lines: Iterable[Sequence[str]], options: FieldOptions, count: int, *, takes_text: bool
) -> Iterator[Line]:
    """Yield lines that are split into fields as samples, without the header and empty ones.

    Raises:
        csv.Error: A field is too long, where ``lines`` is a CSV reader.
    """
    picked = FieldMap(options, count, takes_text=takes_text)
    for fields in lines:
        if not any(field.strip() for field in fields):
            continue
        row = picked.row(fields)
        if row is not None or picked.problem:
            yield Line(row, picked.problem, fields)


def _options_for(first: str, options: Options, columns: tuple[str, ...]) -> Options:
    """Return the options with what the first line shows: separator and columns by name."""
    known = [mark for mark in _SEPARATORS if not (mark == "," and options.decimal_comma)]
    separator = options.separator or max(known, key=first.count)
    separator = separator if separator in first else ""
    is_named = options.header and has_names(split_fields(first.strip(), options))
    named = options.columns or (columns if is_named else ())
    return msgspec.structs.replace(options, separator=separator, columns=named)
