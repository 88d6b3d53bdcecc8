"""Changes single values in the text of a TOML file; comments, order and everything else stay.

It cuts a text into statements (a header, a key with its value, or a line without either) and replaces some.
Whoever uses it decodes the result and checks that nothing else has changed: a form of TOML that is not
understood here (``zone = [{...}]``, dotted keys) is noticed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

_HEADER = re.compile(r"(\[\[?)\s*([\"']?)([A-Za-z0-9_-]+)\2\s*\]\]?")
_KEY = re.compile(r"([\"']?)([A-Za-z0-9_-]+)\1\s*=\s*")
_STRINGS = ('"""', "'''", '"', "'")


class Statement(NamedTuple):
    """One statement, with its line's end: ``name`` is ``[table]``, ``[[table]]`` or a key, else empty.

    ``value`` is where its value begins and ends in it; (0, 0) without one.
    """

    text: str
    name: str
    value: tuple[int, int] = (0, 0)


def statements(text: str) -> Iterator[Statement]:
    r"""Yield the statements of a text, which together are the text.

    >>> [row.name for row in statements("a = [ # one\n 1]\n[[zone]] # two\n")]
    ['a', '[[zone]]']
    """
    at = 0
    while at < len(text):
        end, value_end = _end(text, at)
        whole = text[at:end]
        lead = len(whole) - len(whole.lstrip())
        if match := _HEADER.match(whole, lead):
            yield Statement(whole, match[1] + match[3] + "]" * len(match[1]))
        elif match := _KEY.match(whole, lead):
            yield Statement(whole, match[2], (match.end(), value_end - at))
        else:
            yield Statement(whole, "")
        at = end


def _end(text: str, start: int) -> tuple[int, int]:
    """Return where a statement ends, and before that where it is only blanks and a comment."""
    at, depth, last = start, 0, start
    while at < len(text):
        character = text[at]
        if character == "\n" and not depth:
            return at + 1, last
        if character == "#":
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
            continue
        mark = next((mark for mark in _STRINGS if text.startswith(mark, at)), "")
        at = _string_end(text, at, mark) if mark else at + 1
        depth += (character in "[{") - (character in "]}")
        if not character.isspace():
            last = at
    return len(text), last


def _string_end(text: str, start: int, mark: str) -> int:
    at = start + len(mark)
    while at < len(text) and not text.startswith(mark, at):
        at += 2 if text[at] == "\\" and mark[0] == '"' else 1
    at += len(mark)
    while len(mark) == 3 and text.startswith(mark[0], at):  # quotes before the closing ones
        at += 1
    return at


def toml_value(value: Any) -> str:
    """Return a number, a text, or lists of them as TOML."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")  # the one that JSON leaves as it is


def with_tables(text: str, table: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the text with these ``[[table]]``s, which are known by their ``name``, or else by their place.

    The given keys of a table that is there already are replaced, others stay. A table that is not among
    ``rows`` is taken out; a new one follows the last of its kind, or ends the text.
    """
    header, left = f"[[{table}]]", list(rows)
    kept, end = [], 0
    for block in _blocks(text):
        if block[0].name != header:
            kept.append(block)
            continue
        if (row := _taken(left, block)) is not None:
            kept.append(_set(block, row))
        end = len(kept)
    added = [_new(header, row) for row in left]
    at = end or len(kept)
    return _joined([*kept[:at], *added, *kept[at:]])


def _taken(left: list[Mapping[str, Any]], block: Sequence[Statement]) -> Mapping[str, Any] | None:
    """Take the row that a table is to become out of those that are left; None for none."""
    name = next((row.text[slice(*row.value)].strip("\"'") for row in block if row.name == "name"), None)
    for index, row in enumerate(left):
        if row.get("name") == name:
            return left.pop(index)
    return None


def _blocks(text: str) -> list[list[Statement]]:
    """Return the statements by table; the lines right before a header belong to it, but for the first."""
    blocks: list[list[Statement]] = [[Statement("", "")]]
    for row in statements(text):
        if not row.name.startswith("["):
            blocks[-1].append(row)
            continue
        lead: list[Statement] = []
        while len(blocks[-1]) > 1 and blocks[-1][-1].text.lstrip().startswith("#"):
            lead.insert(0, blocks[-1].pop())
        blocks.append([Statement("".join(line.text for line in lead) + row.text, row.name)])
    return blocks


def _set(block: Sequence[Statement], values: Mapping[str, Any]) -> list[Statement]:
    """Return a table with some values replaced, or added after its last key."""
    left, rows, end = dict(values), [], 1
    for row in block:
        changed = row
        if row.name in left:
            begin, stop = row.value
            text = row.text[:begin] + toml_value(left.pop(row.name)) + row.text[stop:]
            changed = row._replace(text=text)
        rows.append(changed)
        end = len(rows) if row.name else end
    added = [Statement(f"{key} = {toml_value(value)}\n", key) for key, value in left.items()]
    if added and not rows[end - 1].text.endswith("\n"):
        rows[end - 1] = rows[end - 1]._replace(text=rows[end - 1].text + "\n")
    return [*rows[:end], *added, *rows[end:]]


def _new(header: str, values: Mapping[str, Any]) -> list[Statement]:
    return _set([Statement(f"\n{header}\n", header)], values)


def _joined(blocks: Sequence[Sequence[Statement]]) -> str:
    text = ""
    for block in blocks:
        piece = "".join(row.text for row in block)
        if text and piece and not text.endswith("\n"):
            text += "\n"
        text += piece
    return text
