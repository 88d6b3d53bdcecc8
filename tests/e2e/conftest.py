"""What the tests of whole processes share."""

import pytest


@pytest.fixture(scope="session")
def proofs(tmp_path_factory):
    """A cache folder: this machine's backends are proved once for all tests that use it."""
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture
def _proved_once(proofs, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(proofs))
