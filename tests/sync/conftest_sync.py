"""Helpers that the tests of this folder import."""

from __future__ import annotations


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.wall_ms = 1_700_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ms(self) -> int:
        return self.wall_ms

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.wall_ms += int(seconds * 1e3)
