"""The clips that a pipeline has kept: newest first, searched by what their events say."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import msgspec

MOST = 100
"""Clips in one answer."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SAYS = ("kind", "stage", "label", "previous", "zone", "line", "direction")


class KeptClips:
    """The folder of a ``clips`` sink; there may be none yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, words: str = "") -> list[dict[str, Any]]:
        """Return the newest clips, each with ``name``, ``bytes``, ``unix_ms`` (its end) and ``events``.

        ``words``: each must be in what one event says (kind, label, zone, line, direction) or in the name.
        """
        wanted = words.casefold().split()
        dated = []
        for path in self._folder.glob("*.mp4"):
            with contextlib.suppress(OSError):  # the quota has deleted it
                status = path.stat()
                dated.append((status.st_mtime_ns, path, status.st_size))
        found: list[dict[str, Any]] = []
        for ended_ns, path, size in sorted(dated, reverse=True):
            events = _events(path)
            said = [" ".join(str(event.get(name, "")) for name in _SAYS).casefold() for event in events]
            texts = [*said, path.stem.casefold()]
            if _NAME.fullmatch(path.stem) and any(all(word in text for word in wanted) for text in texts):
                row = {"name": path.stem, "bytes": size, "unix_ms": ended_ns // 1_000_000}
                found.append({**row, "events": events})
            if len(found) == MOST:
                break
        return found

    def path(self, name: str) -> Path | None:
        """Return the file of a clip; None where there is none of this name."""
        path = self._folder / f"{name}.mp4"
        return path if _NAME.fullmatch(name) and path.is_file() else None


def _events(clip: Path) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(clip.with_suffix(".json").read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.DecodeError):  # a recording without events is shown too
        return []
