"""A tenant for foreign interpreters that needs no vendor's library."""

from pathlib import Path

import pytest

from edgekit.backends import FOREIGN_TENANTS

ECHO = Path(__file__).parent / "echo_tenant.py"


@pytest.fixture(autouse=True)
def _echo(monkeypatch):
    """The backend ``foreign`` has a tenant ``echo`` besides its own."""
    monkeypatch.setattr("edgekit.backends.foreign.FOREIGN_TENANTS", {**FOREIGN_TENANTS, "echo": str(ECHO)})
