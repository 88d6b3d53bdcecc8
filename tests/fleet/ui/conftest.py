"""A fleet with its web UI, and a browser to look at it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))

from browser import Browser, missing_browser
from ui_kit import lab


@pytest.fixture
def site(tmp_path):
    """A fleet manager with its web UI on a real socket."""
    with lab(tmp_path / "fleet") as running:
        yield running


@pytest.fixture
def browser(tmp_path):
    """A real browser; the test is skipped, with the reason, where there is none."""
    if reason := missing_browser():
        pytest.skip(reason)
    one = Browser(tmp_path / "profile")
    yield one
    one.close()
