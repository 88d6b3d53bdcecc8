"""Small JSON files whose loss costs only time: caches, and what was done before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.base.files import write_durably

logger = logging.getLogger(__name__)
T = TypeVar("T")
D = TypeVar("D")


def read_kept(path: Path, kind: type[T], otherwise: D, loss: str) -> T | D:
    """Return a file's content, or ``otherwise`` where there is none.

    A file that cannot be read or is not of ``kind`` counts as none, with a warning that names the ``loss``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return otherwise
    except (OSError, msgspec.DecodeError) as cause:
        logger.warning("%s is not used, %s: %s", path, loss, cause)
        return otherwise


def keep(path: Path, content: Any, loss: str) -> None:
    """Replace a file; where the disk does not take it, warn of the ``loss``."""
    try:
        write_durably(path, msgspec.json.encode(content))
    except OSError as cause:
        logger.warning("%s cannot be written, %s: %s", path, loss, cause)
