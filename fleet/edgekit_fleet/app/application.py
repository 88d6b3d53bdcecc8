"""The FastAPI application: the fleet's own routes, those of its parts, and the web UI."""

from __future__ import annotations

from fastapi import FastAPI

from edgekit_fleet import __version__
from edgekit_fleet.app import (
    access,
    auditing,
    cameras,
    carried,
    devices,
    enrolment,
    identities,
    moving,
    watching,
)
from edgekit_fleet.app.services import Services
from edgekit_fleet.registry import api as registry
from edgekit_fleet.rollout import api as rollouts
from edgekit_fleet.ui import pages
from edgekit_fleet.ui.site import UiParts
from edgekit_fleet.web import auth, problems
from edgekit_fleet.web.bodies import BodyLimit

API = "/api/v1"


def create_app(services: Services) -> FastAPI:
    """Return the application of one fleet."""
    app = FastAPI(
        title="edgekit fleet",
        version=__version__,
        summary="Enrol devices, watch them, roll models out to them.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    auth.install(app, services.tokens)
    problems.install(app)
    app.add_middleware(
        BodyLimit, unlimited=(*registry.LONG_BODIES, *rollouts.LONG_BODIES, *carried.LONG_BODIES)
    )
    own = (enrolment, devices, cameras, carried, identities, moving, access, watching, auditing)
    for router in (room.router for room in own):
        app.include_router(router, prefix=API)
    app.include_router(watching.metrics_router)
    for router in (*services.registry.routers, services.rollouts.router, *services.measuring.routers):
        app.include_router(router)
    pages.mount(app, ui_parts(services))
    return app


def ui_parts(services: Services) -> UiParts:
    """Return the parts of a fleet manager that the web UI shows."""
    return UiParts(
        database=services.database,
        tokens=services.tokens,
        devices=services.devices,
        metrics=services.metrics,
        messages=services.messages,
        commanding=services.commanding,
        repository=services.registry.repository,
        engine=services.rollouts.engine,
        bus=services.bus,
        hooks=services.hooks,
        health=services.health,
        warnings=services.warnings,
        audit=services.audit,
        cameras=services.cameras,
        is_tls=services.settings.url.startswith("https"),
    )
