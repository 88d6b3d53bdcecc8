"""Bearer tokens: who sends a request, and whether the role is sufficient.

``install`` gives the application's state what the dependencies here use: ``tokens`` and ``throttle``.
Routes that change something take a ``By...`` parameter: the right, and the actor for the audit log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.security import HTTPBearer

from edgekit_fleet.store.audit import Actor
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.tokens import Role, Token, Tokens
from edgekit_fleet.web.throttle import Throttle, address_of, throttle_of

_bearer = HTTPBearer(auto_error=False, description="A token of `edgekit-fleet token create`.")


def install(app: FastAPI, tokens: Tokens) -> None:
    """Give an application the fleet's API tokens and the throttle of who tries them."""
    app.state.tokens = tokens
    app.state.throttle = Throttle()


def authorize(request: Request, *roles: Role) -> Token:
    """Return the token of a request, if its role includes one of ``roles``.

    Raises:
        HTTPException: There is none, or it is not valid (401); its role is not sufficient (403); or its
            address was refused too often (429).
    """
    text = bearer(request)
    token = None if text is None else checked(request, text)
    if token is None:
        raise HTTPException(401, "A valid bearer token is needed")
    if not any(token.may(role) for role in roles):
        wanted = " or ".join(f"'{role}'" for role in roles)
        raise HTTPException(403, f"This needs the role {wanted}, the token has '{token.role}'")
    return token


def checked(request: Request, text: str, *, is_login: bool = False) -> Token | None:
    """Return the valid token with this text; None if there is none, which the throttle counts.

    Raises:
        HTTPException: The request's address was refused too often (429).
    """
    throttle, address = throttle_of(request), address_of(request)
    throttle.admit(address, text)
    tokens: Tokens = request.app.state.tokens
    token = tokens.check(text, unix_ms())
    if token is None:
        throttle.refuse(address, "login" if is_login else "token")
    else:
        throttle.accept(address, text)
    return token


def requires(*roles: Role) -> Callable[..., Token]:
    """Return a dependency that rejects requests whose token has none of these roles."""

    def check(request: Request, _documented: Annotated[object, Security(_bearer)]) -> Token:
        return authorize(request, *roles)

    return check


def acting(*roles: Role) -> Callable[..., Actor]:
    """Return a dependency as ``requires`` does, that gives the actor for the audit log."""
    has_role = Depends(requires(*roles))

    def check(request: Request, token: Token = has_role) -> Actor:
        return actor(request, token)

    return check


def actor(request: Request, token: Token) -> Actor:
    """Return who a request with this token is, for the audit log."""
    label = f", {token.label}" if token.label else ""
    return Actor(f"{token.role} {token.id}{label}", request.client.host if request.client else "")


def bearer(request: Request) -> str | None:
    """Return the text of a request's bearer token, if it has one."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


Viewer = Depends(requires("viewer"))
Operator = Depends(requires("operator"))
Publisher = Depends(requires("publisher"))
Admin = Depends(requires("admin"))
ByViewer = Annotated[Actor, Depends(acting("viewer"))]
ByOperator = Annotated[Actor, Depends(acting("operator"))]
ByPublisher = Annotated[Actor, Depends(acting("publisher"))]
ByOperatorOrPublisher = Annotated[Actor, Depends(acting("operator", "publisher"))]
ByAdmin = Annotated[Actor, Depends(acting("admin"))]
