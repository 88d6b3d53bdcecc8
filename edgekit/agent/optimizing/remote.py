"""Takes measurements that real boards made, through the fleet."""

from __future__ import annotations

from edgekit.agent.optimizing.request import Request
from edgekit.agent.optimizing.search import Search


def measure(search: Search, request: Request) -> None:
    """Have a device measure the candidates in the gate, and take what the fleet knows of their costs."""
    del search, request
