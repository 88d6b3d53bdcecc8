"""Bearer tokens: who sends a request, and whether the role is sufficient.

The application's state carries the ``Tokens`` of the store as ``app.state.tokens``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.tokens import Role, Token, Tokens

_bearer = HTTPBearer(auto_error=False, description="A token of `edgekit-fleet token create`.")


def tokens_of(request: Request) -> Tokens:
    """Return the fleet's API tokens (dependency of routes that check a role)."""
    tokens: Tokens = request.app.state.tokens
    return tokens


AllTokens = Annotated[Tokens, Depends(tokens_of)]


def authorize(tokens: Tokens, text: str | None, *roles: Role) -> Token:
    """Return the token with this text, if its role includes one of ``roles``.

    Raises:
        HTTPException: It is not a valid token (401), or its role is not sufficient (403).
    """
    token = tokens.check(text, unix_ms()) if text else None
    if token is None:
        raise HTTPException(401, "A valid bearer token is needed")
    if not any(token.may(role) for role in roles):
        wanted = " or ".join(f"'{role}'" for role in roles)
        raise HTTPException(403, f"This needs the role {wanted}, the token has '{token.role}'")
    return token


def requires(*roles: Role) -> Callable[..., Token]:
    """Return a dependency that rejects requests whose token has none of these roles."""

    def check(
        tokens: AllTokens,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> Token:
        return authorize(tokens, credentials.credentials if credentials else None, *roles)

    return check


def bearer(request: Request) -> str | None:
    """Return the text of a request's bearer token, if it has one."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else None


Viewer = Depends(requires("viewer"))
Operator = Depends(requires("operator"))
Publisher = Depends(requires("publisher"))
OperatorOrPublisher = Depends(requires("operator", "publisher"))
Admin = Depends(requires("admin"))
