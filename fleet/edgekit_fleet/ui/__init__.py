"""The web UI: pages rendered here, kept live by server-sent events; they work without scripts too."""

from __future__ import annotations

from fastapi import FastAPI

from edgekit_fleet.services import Services
from edgekit_fleet.store.sessions import Sessions


def mount(app: FastAPI, services: Services) -> None:
    """Add the web UI's routes to the application."""
    from edgekit_fleet.ui import bundles, devices, live, overview, rollouts, signin
    from edgekit_fleet.ui.assets import Assets
    from edgekit_fleet.ui.guard import SecurityHeaders
    from edgekit_fleet.ui.site import Site

    app.state.site = Site(services, Assets())
    app.add_middleware(SecurityHeaders)
    for part in (signin, overview, devices, bundles, rollouts, live):
        app.include_router(part.router)
    app.include_router(signin.api)


def login_link(services: Services, base_url: str, token: str, now_ms: int) -> str:
    """Return a link that signs a browser in, once, within 15 minutes; empty where the token is not valid.

    Args:
        services: The fleet's parts.
        base_url: Where the browser reaches the fleet manager.
        token: Text of the API token that the session stands for.
        now_ms: Unix time in milliseconds.
    """
    found = services.tokens.check(token.strip(), now_ms)
    if found is None:
        return ""
    return f"{base_url}/login?code={Sessions(services.database).make_code(found.id, now_ms)}"
