"""The supervisor's clock: wall time never goes below what this device has already seen."""

import contextlib
import time
from pathlib import Path
from typing import Literal

from edgekit.base.files import write_durably

_SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
# 2026-01-01: earlier than this software, so a clock before it is wrong.
FLOOR_UNIX_MS = 1_767_225_600_000


class FlooredClock:
    """Monotonic and wall time; without a battery, wall time starts at ``path``'s floor and not in 1970."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = 0
        with contextlib.suppress(OSError, ValueError):  # absent or damaged: the constant is the floor
            kept = int(path.read_text(encoding="ascii"))
        self._floor_ms = max(FLOOR_UNIX_MS, kept)
        self._floored_ns = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary start; never goes back."""
        return time.monotonic_ns()

    def unix_ms(self) -> int:
        """Return milliseconds since 1970, at least the floor plus the time since start.

        A synchronised clock is right, also below the floor: else one that was a year ahead for an hour would
        find the fleet's metadata expired for a year.
        """
        if self.quality == "synced":
            return time.time_ns() // 1_000_000
        passed_ms = (time.monotonic_ns() - self._floored_ns) // 1_000_000
        return max(time.time_ns() // 1_000_000, self._floor_ms + passed_ms)

    @property
    def quality(self) -> Literal["synced", "floored", "unknown"]:
        """Whether wall time can be trusted."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms >= FLOOR_UNIX_MS and _SYNCHRONIZED.exists():
            return "synced"
        return "floored" if now_ms < self._floor_ms else "unknown"

    def keep(self) -> None:
        """Store the floor for the next start.

        Raises:
            OSError: The disk is full or broken.
        """
        write_durably(self._path, str(self.unix_ms()).encode())
