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
