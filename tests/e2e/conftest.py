"""What the tests of whole processes share."""

import pytest


@pytest.fixture(scope="session")
def proofs(proved_cache):
    """A cache folder: what is verified and measured once serves all tests that use it."""
    return proved_cache()


@pytest.fixture
def _proved_once(proofs, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(proofs))
