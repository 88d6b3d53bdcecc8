"""Zones and lines of a pipeline's file: read for the page, and written back by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, StorageError
from edgekit.pipeline.config import MAX_CONFIG_BYTES, parse_config
from edgekit.pipeline.toml_text import with_tables

SHAPES: Mapping[str, str] = {"zone": "polygon", "line": "points"}
"""The key of each kind's points, which are shares of the picture."""


class ShapeFile:
    """The file of one pipeline.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def shapes(self) -> dict[str, list[dict[str, Any]]]:
        """Return name and points of each shape, by kind.

        Raises:
            ConfigError: The file cannot be read, or is no TOML.
        """
        document = _decoded(self._text(), self._path)
        return {
            kind: [
                {key: row[key] for key in ("name", points) if key in row} for row in document.get(kind, [])
            ]
            for kind, points in SHAPES.items()
        }

    def save(self, wanted: Mapping[str, Any]) -> None:
        """Write shapes; comments and all other values stay. ``[track]`` is added where it is missing.

        A power cut leaves the file old or new. A kind that is not in ``wanted`` stays as it is.

        Raises:
            ConfigError: The pipeline would not be valid, or the file is written in a form that cannot be
                changed in place. The file is as before.
            StorageError: It cannot be written.
        """
        before = self._text()
        text = before.removeprefix("\ufeff")
        old = _decoded(text, self._path)
        new = dict(old)
        for kind, points in SHAPES.items():
            if kind not in wanted:
                continue
            rows = _rows(wanted[kind], kind, points)
            text = with_tables(text, kind, rows)
            new[kind] = [_merged(row, old.get(kind, [])) for row in rows]
        if any(new.get(kind) for kind in SHAPES) and "track" not in old:
            text, new["track"] = text.rstrip("\n") + "\n\n[track]\n", {}
        self._check(text, new)
        if text != before:
            self._write(text)

    def _check(self, text: str, expected: Mapping[str, Any]) -> None:
        parse_config(text, str(self._path), str(self._path.parent))
        if _comparable(_decoded(text, self._path)) != _comparable(expected):
            raise ConfigError(
                f"{self._path}: is written in a form that the page cannot change in place",
                hint="write zones and lines as [[zone]] and [[line]] tables",
            )

    def _text(self) -> str:
        try:
            data = self._path.read_bytes()
        except OSError as cause:
            raise ConfigError(f"{self._path}: cannot be read: {cause.strerror}") from cause
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{self._path}: want at most {MAX_CONFIG_BYTES} bytes, got {len(data)}")
        try:
            return data.decode()
        except UnicodeDecodeError as cause:
            raise ConfigError(f"{self._path}: is not UTF-8: {cause}") from cause

    def _write(self, text: str) -> None:
        try:
            write_durably(self._path, text.encode(), mode=self._path.stat().st_mode & 0o777)
        except OSError as cause:
            raise StorageError(f"{self._path}: cannot be written: {cause.strerror or cause}") from cause


def _rows(rows: object, kind: str, points: str) -> list[dict[str, Any]]:
    """Return rows that have a name and points alone; what is wrong in these the pipeline's check says."""
    keys = {"name", points}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() == keys for row in rows):
        raise ConfigError(f"{kind}: want a list of {' and '.join(sorted(keys))}, got {str(rows)[:100]!r}")
    return rows


def _merged(row: Mapping[str, Any], old: list[dict[str, Any]]) -> dict[str, Any]:
    named = [each for each in old if each.get("name") == row["name"]]
    return {**(named[0] if named else {}), **row}


def _comparable(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document whose shapes are without order, and whose missing kinds are empty."""
    rest = {key: value for key, value in document.items() if key not in SHAPES}
    return rest | {
        kind: sorted(msgspec.json.encode(row, order="deterministic") for row in document.get(kind, []))
        for kind in SHAPES
    }


def _decoded(text: str, path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = msgspec.toml.decode(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, ValueError) as cause:
        raise ConfigError(f"{path}: is not TOML: {cause}") from cause
    return document
