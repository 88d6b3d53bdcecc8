"""Files beside a model: label lists, and Ultralytics' ``metadata.yaml``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.errors import BundleError
from edgekit.importer.model_file import ModelFile
from edgekit.importer.readers.literals import literal

LABEL_FILES = ("labels.txt", "labelmap.txt", "classes.txt", "obj.names", "coco.names")
_MOST_BYTES = 1 << 20
_NUMBERED = re.compile(r"(\d+)[\s:,]+(\S.*)")


def labels_beside(file: ModelFile) -> ModelFile:
    """Return the file with the labels of a label file in its folder, where it carries none itself."""
    if file.labels or "names" in file.metadata or "labels" in file.metadata:
        return file
    for name in LABEL_FILES:
        if (path := file.path.parent / name).is_file():
            return replace(file, labels=read_labels(path), labels_from=str(name))
    return file


def read_labels(path: Path) -> tuple[str, ...]:
    """Return a label file's labels, one a line, or each after its number (``3  cat``), gaps empty.

    Raises:
        BundleError: It cannot be read, is over 1 MiB, or is not text.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path}: want a list of labels of at most 1 MiB")
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise BundleError(f"{path}: labels cannot be read: {cause}") from cause
    return plain_labels([line if line == " " else line.strip() for line in lines])  # a blank can be read


def plain_labels(lines: list[str]) -> tuple[str, ...]:
    """Return labels without the numbers in front, where every line has one.

    >>> plain_labels(["0 person", "2 car"]), plain_labels(["person", "car"])
    (('person', '', 'car'), ('person', 'car'))
    """
    while lines and not lines[-1]:
        lines.pop()
    rows = [_NUMBERED.fullmatch(line) for line in lines if line]
    numbers = [int(row.group(1)) for row in rows if row]
    if not rows or len(numbers) < len(rows) or len(set(numbers)) < len(numbers) or max(numbers) > 10_000:
        return tuple(lines)
    by_number = {int(row.group(1)): row.group(2) for row in rows if row}
    return tuple(by_number.get(number, "") for number in range(max(numbers) + 1))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a flat YAML file as exporters write it; empty where there is none.

    A key has a value on its line, a list of ``- item`` or a mapping of ``number: name`` below it.
    """
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return {}
    values: dict[str, Any] = {}
    key = ""
    for line in path.read_text("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("- ") and key:
            rows = values[key] if isinstance(values[key], list) else []
            values[key] = [*rows, _scalar(text[2:])]
            continue
        name, colon, rest = text.partition(":")
        if not colon:
            continue
        if line[0] == " " and key:
            values[key] = {**(values[key] or {}), name.strip("'\""): _scalar(rest)}
        else:
            key = name.strip("'\"")
            values[key] = _scalar(rest) if rest.strip() else {}
    return values


def _scalar(text: str) -> Any:
    value = text.strip()
    if value.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value.lower()]
    return literal(value.strip("'\"")) if value[:1] not in "'\"" or len(value) < 2 else value[1:-1]
