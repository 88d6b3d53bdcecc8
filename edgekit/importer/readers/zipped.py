"""The zip that TFLite exporters append to a model: metadata and labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from edgekit.importer.readers.literals import literal

_MOST_FILES, _MOST_BYTES = 32, 1 << 20


def read_zip(path: Path) -> dict[str, str]:
    """Return the texts of the small files in the zip at the end of a file, by name; empty without a zip."""
    if not zipfile.is_zipfile(path):
        return {}
    contents = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist()[:_MOST_FILES]:
            if info.file_size <= _MOST_BYTES and info.compress_size and not info.flag_bits & 1:
                contents[info.filename] = archive.read(info).decode("utf-8", "replace")
    return contents


def metadata_in(contents: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Return the mapping in one of the files (Ultralytics' temp_meta.txt or metadata.json), and its name."""
    for name, text in contents.items():
        value = literal(text)
        if isinstance(value, dict):
            return {str(key): item for key, item in value.items()}, f"zip {name}"
    return {}, ""
