"""The fleet manager's clock."""

from __future__ import annotations

import time


def unix_ms() -> int:
    """Return the wall clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
