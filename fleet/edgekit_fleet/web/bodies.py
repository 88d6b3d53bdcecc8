"""Request bodies that may not be longer than a limit."""

from __future__ import annotations

from fastapi import HTTPException, Request


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return a request's body.

    Raises:
        HTTPException: It is longer than ``limit_bytes`` (413).
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise HTTPException(413, f"At most {limit_bytes} bytes are read")
    return bytes(body)
