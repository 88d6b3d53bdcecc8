from __future__ import annotations

import pytest
from conftest_sync import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
