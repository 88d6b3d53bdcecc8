"""The static files of the UI: its own style sheet and script, and those that the build fetches from npm."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "static"
OWN = {"edgekit.css": "text/css", "edgekit.js": "text/javascript", "icon.svg": "image/svg+xml"}
VENDOR = {"htmx.min.js": "text/javascript", "uPlot.min.js": "text/javascript", "uPlot.min.css": "text/css"}
HOW_TO_FETCH = "python fleet/hatch_build.py"


@dataclass(frozen=True)
class Asset:
    """One static file."""

    data: bytes
    media_type: str
    url: str
    """Contains the hash of the content, so that browsers may cache it forever."""


class Assets:
    """Every file of the UI, read once.

    Args:
        folder: The folder with the files; those from npm are in ``vendor``.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = {name: folder / name for name in OWN} | {name: folder / "vendor" / name for name in VENDOR}
        types = OWN | VENDOR
        self._found = {name: _read(path, types[name]) for name, path in paths.items() if path.is_file()}
        self.missing = sorted(types.keys() - self._found.keys())
        if self.missing:
            logger.warning(
                "the web UI has no %s: pages work, without live updates; run: %s",
                ", ".join(self.missing),
                HOW_TO_FETCH,
            )

    def get(self, name: str) -> Asset | None:
        """Return a file by its name."""
        return self._found.get(name)

    def url(self, name: str) -> str:
        """Return the URL of a file; empty if the file is missing."""
        asset = self._found.get(name)
        return asset.url if asset else ""


def _read(path: Path, media_type: str) -> Asset:
    data = path.read_bytes()
    return Asset(data, media_type, f"/static/{hashlib.sha256(data).hexdigest()[:12]}/{path.name}")
