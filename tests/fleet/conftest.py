"""A running fleet manager for whoever wants one; see ``fleet_kit``."""

import pytest
from fleet_kit import RunningFleet, composed


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """One fleet manager with the embedded broker and TLS to it, for the tests of a module."""
    with RunningFleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
def services(tmp_path):
    """The parts of a fleet that is composed, but not started."""
    with composed(tmp_path) as fleet:
        yield fleet.services
