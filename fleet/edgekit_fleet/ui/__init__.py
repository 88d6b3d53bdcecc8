"""The web UI."""

from __future__ import annotations

from fastapi import FastAPI

from edgekit_fleet.services import Services


def mount(app: FastAPI, services: Services) -> None:
    """Add the web UI's routes to the application; there are none yet."""
