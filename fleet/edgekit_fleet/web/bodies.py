"""Request bodies that may not be longer than a limit, and must keep coming.

``BodyLimit`` bounds every request before anything reads its body, so a request without a token costs at
most 64 KiB. Routes that need more read their body themselves, after they checked the token. A request whose
body stops in the middle is refused, so that nobody holds a connection or an upload's place for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit_fleet.web.problems import problem

MAX_BODY_BYTES = 64 << 10
"""Of every request whose route does not read the body itself."""
STALL_S = 30.0
"""The longest pause within a body."""

Document = TypeVar("Document", bound=BaseModel)


class BodyLimit:
    """Refuses longer bodies with 413: by their declared length at once, else as soon as they exceed it.

    A body of which nothing arrives for a while is refused with 408, whatever its route.

    Args:
        app: The application.
        unlimited: Paths whose routes bound the body themselves, after authentication; one that ends
            with a slash stands for all below it.
        stall_s: The longest pause within a body, in seconds.
    """

    def __init__(self, app: ASGIApp, unlimited: Iterable[str], stall_s: float = STALL_S) -> None:
        self._app, self._stall_s = app, stall_s
        self._paths = frozenset(unlimited)
        self._folders = tuple(path for path in self._paths if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, receive = scope.get("path", ""), _timely(receive, self._stall_s)
        if path in self._paths or path.startswith(self._folders):
            await self._app(scope, receive, send)
            return
        if (declared_bytes(Headers(scope=scope)) or 0) > MAX_BODY_BYTES:
            await problem(413, _refusal(MAX_BODY_BYTES), code="link.server")(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, MAX_BODY_BYTES), send)


def declared_bytes(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body that a request's headers declare; None without one."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and length.isascii() else None


def _timely(receive: Receive, stall_s: float) -> Receive:
    """Return ``receive`` that waits a bounded time for each part of the body, and for ever after its end."""
    is_whole = False

    async def timely() -> Message:
        nonlocal is_whole
        if is_whole:  # what is left to wait for is the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), stall_s)
        except asyncio.TimeoutError:
            text = f"Nothing of the body arrived for {stall_s:g} s"
            raise HTTPException(408, text, headers={"Connection": "close"}) from None
        is_whole = not message.get("more_body", False)
        return message

    return timely


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
