from __future__ import annotations

import os
import tempfile
from pathlib import Path

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


@pytest.fixture
def server():
    from update_kit import Server

    found = Server()
    yield found
    found.stop()


@pytest.fixture
def fleet(server):
    from update_kit import Fleet

    return Fleet(server)


@pytest.fixture
def state_dir(tmp_path, fleet):
    folder = tmp_path / "state"
    fleet.enrol(folder)
    return folder


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: what these tests cut off is processes, not power."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
