"""What the user states: ``KEY=VALUE`` words, ``--decoder`` and ``--labels``, by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.core.errors import UsageError
from edgekit.importer.front_ends import stated_front_end
from edgekit.importer.label_sets import LABEL_SETS
from edgekit.importer.readers.beside import read_labels
from edgekit.importer.readers.literals import literal

_ALIASES = {"fill": "pad", "colour": "color", "threshold": "score_threshold", "iou": "iou_threshold"}


def parse_flags(words: Sequence[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` words by key; a value is JSON, a Python literal, or text.

    >>> parse_flags(["color=bgr", "mean=[104, 117, 123]", "fill=0"])
    {'color': 'BGR', 'mean': [104, 117, 123], 'pad': 0}

    Raises:
        UsageError: A word has no ``=``, or a key is given twice.
    """
    flags: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = _ALIASES.get(key, key).replace("-", "_")
        if not equals or not key:
            raise UsageError(f"{word!r}: want KEY=VALUE", hint="for example: color=BGR mean=127.5 std=127.5")
        if key in flags:
            raise UsageError(f"{key}: is given twice")
        flags[key] = literal(text)
    return checked_flags(flags)


def checked_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags with every spelling made one: colours in capitals, numbers of mean and std as lists."""
    values = {_ALIASES.get(key, key): value for key, value in flags.items() if value is not None}
    if "color" in values:
        values["color"] = str(values["color"]).upper()
    if "labels" in values:
        values["labels"] = stated_labels(values["labels"])
    if "front_end" in values:
        values["front_end"], usual = stated_front_end(values["front_end"])
        if usual is not None:
            values = {"mean": usual[0], "std": usual[1]} | values
    return values


def stated_labels(value: Any) -> tuple[str, ...]:
    """Return the labels of a list, of a set's name ("coco80"), of a file's path, or of ``a,b,c``.

    Raises:
        UsageError: It is none of these.
        BundleError: The file cannot be read.
    """
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    text = str(value)
    if text in LABEL_SETS:
        return LABEL_SETS[text]
    if Path(text).is_file():
        return read_labels(Path(text))
    if Path(text).suffix or "/" in text:
        raise UsageError(f"labels: there is no file {text!r}", hint="give a text file with one label a line")
    return tuple(part.strip() for part in text.split(","))
