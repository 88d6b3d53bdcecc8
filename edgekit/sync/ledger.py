"""The ledger: what left the device and what was refused, aggregated, bounded, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgekit.core.ports import Clock


class Entry(msgspec.Struct, frozen=True):
    """How much data of one class, of one pipeline, to one destination, passed or was refused.

    ``start_unix_s`` is the beginning of the hour (or day, for the distant past) it happened in.
    """

    start_unix_s: int
    pipeline: str
    data_class: str
    destination: str
    decision: Literal["passed", "refused"]
    count: int
    bytes: int


class Ledger:
    """Adds up in memory and writes once in ``flush_s``, so that a camera does not wear out the flash.

    Thread-safe. Never raises for a full or broken disk: it counts what it could not write.
    """

    def __init__(
        self, path: Path, clock: Clock, *, bucket_s: int = 3600, max_rows: int = 20_000, flush_s: float = 60.0
    ) -> None:
        raise NotImplementedError

    def add(
        self,
        pipeline: str,
        data_class: str,
        destination: str,
        decision: Literal["passed", "refused"],
        size: int,
    ) -> None:
        """Count one decision about ``size`` bytes."""
        raise NotImplementedError

    def entries(self, since_unix_s: int = 0) -> list[Entry]:
        """Return what is recorded, oldest first, with what is not written yet."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what was added up."""
        raise NotImplementedError

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        raise NotImplementedError
