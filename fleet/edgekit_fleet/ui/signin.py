"""Signing in to the web UI: an API token or a one-time link begins a session, kept in a cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from pydantic import BaseModel

from edgekit_fleet.store.audit import Actor
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.sessions import SESSION_MS, Sessions
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.ui.guard import MAX_URL, PageRoute, local_path
from edgekit_fleet.ui.site import Form, Pages, Site
from edgekit_fleet.web.auth import actor, authorize, checked
from edgekit_fleet.web.queries import Text
from edgekit_fleet.web.throttle import address_of, throttle_of

_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}

router = APIRouter(route_class=PageRoute, include_in_schema=False)
api = APIRouter(prefix="/api/v1", tags=["access"])


def link(tokens: Tokens, sessions: Sessions, base_url: str, token: str) -> str:
    """Return a link that signs a browser in, once, within 15 minutes; empty if the token is not valid.

    Args:
        tokens: The fleet's API tokens.
        sessions: The fleet's sessions.
        base_url: Where the browser reaches the fleet manager.
        token: Text of the API token that the session stands for.
    """
    valid = tokens.check(token.strip(), unix_ms())
    return f"{base_url}/login?code={sessions.make_code(valid.id, unix_ms())}" if valid else ""


class LoginLink(BaseModel):
    """A link that signs a browser in, once, within 15 minutes."""

    url: str


@api.post("/login-links", status_code=201)
def login_link(request: Request, site: Pages) -> LoginLink:
    """Create a link that signs a browser in to the web UI with the role of this request's token."""
    token = authorize(request, "viewer")
    with site.parts.database.transaction():
        code = site.sessions.make_code(token.id, unix_ms())
        site.parts.audit.record(actor(request, token), "login.link", token.id)
    return LoginLink(url=f"{str(request.base_url).rstrip('/')}/login?code={code}")


@router.get("/login")
def show(
    request: Request,
    site: Pages,
    code: Text = "",
    back: Annotated[str, Query(alias="next", max_length=MAX_URL)] = "/",
) -> Response:
    """Show the login form, or redeem a one-time code.

    After a link from another site a redirect would lose the cookie, because the cookie is strict. The page
    that says "signed in" therefore redirects by itself.
    """
    if not code or request.method == "HEAD":  # a preview of the link must not use it up
        return site.page(request, "login.html", back=local_path(back), problem="")
    throttle, address = throttle_of(request), address_of(request)
    throttle.admit(address, code)
    token = site.sessions.redeem(code, unix_ms())
    if token is None:
        throttle.refuse(address, "login")
        problem = "This link was used already, or is older than 15 minutes."
        return site.page(request, "login.html", status=401, back="/", problem=problem)
    page = site.page(request, "welcome.html", back="/")
    _begin(request, site, page, token)
    return page


@router.post("/login")
def sign_in(request: Request, site: Pages, form: Form) -> Response:
    """Begin a session with an API token."""
    back = local_path(form.get("next", "/"))
    token = checked(request, form.get("token", "").strip(), is_login=True)
    if token is None:
        problem = "That is not a valid token of this fleet."
        return site.page(request, "login.html", status=401, back=back, problem=problem)
    answer = RedirectResponse(back, 303)
    _begin(request, site, answer, token.id)
    return answer


@router.post("/logout")
def sign_out(request: Request, site: Pages) -> Response:
    """End the session."""
    if text := request.cookies.get(site.cookie):
        site.sessions.close(text)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(site.cookie, secure=site.parts.is_tls, httponly=True, samesite="strict")
    return answer


@router.get("/static/{digest}/{name}")
def static(site: Pages, digest: str, name: str) -> Response:
    """Return a static file; its URL contains the hash of its content."""
    asset = site.assets.get(name)
    if asset is None or asset.url != f"/static/{digest}/{name}":
        raise HTTPException(404, "There is no such file")
    return Response(asset.data, media_type=asset.media_type, headers=_FOREVER)


@router.get("/favicon.ico")
def favicon(site: Pages) -> Response:
    """Return the icon at the URL that browsers request by default."""
    asset = site.assets.get("icon.svg")
    return Response(asset.data, media_type=asset.media_type) if asset else PlainTextResponse("", 404)


def _begin(request: Request, site: Site, answer: Response, token: str) -> None:
    with site.parts.database.transaction():
        session = site.sessions.open(token, unix_ms())
        site.parts.audit.record(Actor(f"token {token}", address_of(request)), "login", token)
    answer.set_cookie(
        site.cookie,
        session,
        max_age=SESSION_MS // 1000,
        secure=site.parts.is_tls,
        httponly=True,
        samesite="strict",
    )
