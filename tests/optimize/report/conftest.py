"""A browser, as the tests of the fleet's web UI drive it."""

import pytest
from browser import Browser, missing_browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real browser; the test is skipped, with the reason, where there is none."""
    if reason := missing_browser():
        pytest.skip(reason)
    one = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield one
    one.close()
