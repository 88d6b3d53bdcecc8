"""Helpers that the tests of this folder import."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest


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


def memory_folder() -> Path | None:
    """Return a folder whose syncs cost nothing, if this machine has one."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else None


@pytest.fixture(name="tmp_path")
def memory_path():
    """A folder in memory where there is one: what these tests cut off is processes, not power."""
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        yield Path(folder)
