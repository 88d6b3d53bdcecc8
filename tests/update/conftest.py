from __future__ import annotations

import pytest


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 1
        self.wall_ms = 1_700_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ms(self) -> int:
        return self.wall_ms


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
