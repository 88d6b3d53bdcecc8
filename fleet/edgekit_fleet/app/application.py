"""The FastAPI application: the fleet's own routes, those of its parts, and the web UI."""

from __future__ import annotations

from fastapi import FastAPI

from edgekit_fleet import __version__, ui
from edgekit_fleet.app import access, devices, enrolment, problems, watching
from edgekit_fleet.services import Services

API = "/api/v1"


def create_app(services: Services) -> FastAPI:
    """Return the application of one fleet.

    ``services.hooks.routers`` are added as they are: their paths begin with ``/api/v1`` or ``/tuf``.
    """
    app = FastAPI(
        title="edgekit fleet",
        version=__version__,
        summary="Enrol devices, watch them, roll models out to them.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    problems.install(app)
    for router in (enrolment.router, devices.router, access.router, watching.router):
        app.include_router(router, prefix=API)
    app.include_router(watching.metrics_router)
    for router in services.hooks.routers:
        app.include_router(router)
    ui.mount(app, services)
    return app
