"""Protects the web UI against hostile pages: security headers and same-origin posts; shows error pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit.core.errors import EdgekitError
from edgekit_fleet.web.problems import status_of

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
MAX_URL = 2000


class SecurityHeaders:
    """Adds the headers to every answer of the application, including the API's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class SignInNeededError(Exception):
    """Nobody is signed in, or the session has ended."""


class PageRoute(APIRoute):
    """A route of the web UI: refuses posts of other sites, shows errors as pages, answers HEAD like GET."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.methods and "GET" in self.methods:
            self.methods.add("HEAD")  # the server leaves the body away

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                _refuse_other_sites(request)
                return await inner(request)
            except SignInNeededError:
                return _to_sign_in(request)
            except HTTPException as error:
                return _error_page(request, error.status_code, str(error.detail))
            except RequestValidationError as error:
                fields = tuple(f"{field['loc'][-1]}: {field['msg']}" for field in error.errors())
                return _error_page(request, 422, "The request is not valid", fields)
            except EdgekitError as error:
                return _error_page(request, status_of(error), error.message, error.reasons, error.hint)

        return handle


def _refuse_other_sites(request: Request) -> None:
    if request.method not in {"GET", "HEAD"} and not is_same_origin(request):
        raise HTTPException(403, "This request came from another site")


def is_same_origin(request: Request) -> bool:
    """Say whether a request was sent by a page of this server.

    Browsers name the origin of every post; old browsers that do not are refused. In addition the session
    cookie is ``SameSite=Strict``. Source: OWASP, "Cross-Site Request Forgery Prevention".
    """
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return request.headers.get("sec-fetch-site") == "same-origin"


def local_path(text: str) -> str:
    """Return a path that a browser may be redirected to: ``text`` if it is on this server, else ``/``.

    >>> local_path("/devices?page=2"), local_path("//elsewhere"), local_path("https://elsewhere")
    ('/devices?page=2', '/', '/')
    """
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_local and len(text) <= MAX_URL else "/"


def _to_sign_in(request: Request) -> Response:
    is_partial = "hx-request" in request.headers
    page = request.headers.get("hx-current-url", "") if is_partial else str(request.url)
    parts = urlsplit(page)
    back = local_path(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    where = f"/login?next={quote(back)}" if request.method in {"GET", "HEAD"} or is_partial else "/login"
    if is_partial:
        return Response(headers={"HX-Redirect": where})
    return RedirectResponse(where, 303)


def _error_page(
    request: Request, status: int, message: str, reasons: tuple[str, ...] = (), hint: str = ""
) -> Response:
    page: Response = request.app.state.site.page(
        request, "error.html", status=status, code=status, message=message, reasons=reasons, hint=hint
    )
    return page
