"""Bearer tokens: who asks, and whether the role suffices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from edgekit_fleet.ingest.intake import now_ms
from edgekit_fleet.services import Services
from edgekit_fleet.store.tokens import Role, Token

_bearer = HTTPBearer(auto_error=False, description="A token of `edgekit-fleet token create`.")


def services_of(request: Request) -> Services:
    """Return the fleet's parts (dependency of every route)."""
    found: Services = request.app.state.services
    return found


Parts = Annotated[Services, Depends(services_of)]


def authorize(parts: Services, text: str | None, role: Role) -> Token:
    """Return the token that a text is, if its role includes ``role``.

    Raises:
        HTTPException: It is not a valid token (401), or its role does not suffice (403).
    """
    token = parts.tokens.check(text, now_ms()) if text else None
    if token is None:
        raise HTTPException(401, "A valid bearer token is needed")
    if not token.may(role):
        raise HTTPException(403, f"This needs the role '{role}', the token has '{token.role}'")
    return token


def requires(role: Role) -> Callable[..., Token]:
    """Return a dependency that lets only tokens through whose role includes ``role``."""

    def check(
        parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Token:
        return authorize(parts, credentials.credentials if credentials else None, role)

    return check


def bearer(request: Request) -> str | None:
    """Return the text of a request's bearer token, if it has one."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


Viewer = Depends(requires("viewer"))
Operator = Depends(requires("operator"))
Publisher = Depends(requires("publisher"))
Admin = Depends(requires("admin"))
