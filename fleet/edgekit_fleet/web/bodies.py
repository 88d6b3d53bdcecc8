"""Request bodies that may not be longer than a limit.

``BodyLimit`` bounds every request before anything reads its body, so a request without a token costs at
most 64 KiB. Routes that need more read their body themselves, after they checked the token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit_fleet.web.problems import problem

MAX_BODY_BYTES = 64 << 10
"""Of every request whose route does not read the body itself."""

Document = TypeVar("Document", bound=BaseModel)


class BodyLimit:
    """Refuses longer bodies with 413: by their declared length at once, else as soon as they exceed it.

    Args:
        app: The application.
        unlimited: Paths whose routes bound the body themselves, after authentication; one that ends
            with a slash stands for all below it.
    """

    def __init__(self, app: ASGIApp, unlimited: Iterable[str]) -> None:
        self._app = app
        self._paths = frozenset(unlimited)
        self._folders = tuple(path for path in self._paths if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in self._paths or path.startswith(self._folders):
            await self._app(scope, receive, send)
            return
        if _declared_bytes(scope) > MAX_BODY_BYTES:
            await problem(413, _refusal(MAX_BODY_BYTES), code="link.server")(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, MAX_BODY_BYTES), send)


def _declared_bytes(scope: Scope) -> int:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(length) if length.isdigit() else 0


def _bounded(receive: Receive, limit_bytes: int) -> Receive:
    read_bytes = 0

    async def bounded() -> Message:
        nonlocal read_bytes
        message = await receive()
        read_bytes += len(message.get("body", b""))
        if read_bytes > limit_bytes:
            raise HTTPException(413, _refusal(limit_bytes))
        return message

    return bounded


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return a request's body.

    Raises:
        HTTPException: It is longer than ``limit_bytes`` (413).
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise HTTPException(413, _refusal(limit_bytes))
    return bytes(body)


def body_of(kind: type[Document], limit_bytes: int) -> Callable[[Request], Awaitable[Document]]:
    """Return a dependency that reads and checks a JSON body of up to ``limit_bytes``.

    FastAPI reads a declared body before it resolves dependencies. This one is resolved after those that
    stand before it, so a route can check the token first. ``schema_of`` describes the body.
    """

    async def read(request: Request) -> Document:
        try:
            return kind.model_validate_json(await read_body(request, limit_bytes))
        except ValidationError as cause:
            errors = [{**error, "loc": ("body", *error["loc"])} for error in cause.errors(include_url=False)]
            raise RequestValidationError(errors) from cause

    return read


def schema_of(kind: type[BaseModel]) -> dict[str, object]:
    """Return the OpenAPI description of a body that ``body_of`` reads."""
    # within the operation: the references of nested models would not resolve
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def _refusal(limit_bytes: int) -> str:
    return f"At most {limit_bytes} bytes are read"
