"""Adds every page of the web UI to an application."""

from __future__ import annotations

from fastapi import FastAPI

from edgekit_fleet.ui import auditing, bundles, cameras, devices, live, overview, rollouts, signin
from edgekit_fleet.ui.assets import Assets
from edgekit_fleet.ui.guard import SecurityHeaders
from edgekit_fleet.ui.site import Site, UiParts


def mount(app: FastAPI, parts: UiParts) -> None:
    """Add the web UI's routes and security headers to an application."""
    app.state.site = Site(parts, Assets())
    app.add_middleware(SecurityHeaders)
    for page in (signin, overview, devices, cameras, bundles, rollouts, auditing, live):
        app.include_router(page.router)
    app.include_router(signin.api)
