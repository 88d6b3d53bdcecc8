"""Errors as the API sends them: every error is an ``application/problem+json`` document (RFC 9457)."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from edgekit.core import errors

logger = logging.getLogger(__name__)

# The first class that matches decides.
STATUS: tuple[tuple[type[errors.EdgekitError], int], ...] = (
    (errors.UsageError, 422),
    (errors.StorageError, 507),
    (errors.RollbackAttackError, 409),
    (errors.TrustError, 422),
    (errors.ModelError, 422),
    (errors.EnrollError, 403),
    (errors.ProtocolError, 422),
    (errors.LinkError, 502),
    (errors.GateError, 409),
)


def problem(status: int, title: str, detail: str = "", **more: Any) -> JSONResponse:
    """Return a problem document; ``more`` are its further members."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def status_of(error: errors.EdgekitError) -> int:
    """Return the HTTP status of the answer to a request that raised an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def install(app: FastAPI) -> None:
    """Make an application answer every error with a problem document."""
    app.add_exception_handler(errors.EdgekitError, _edgekit)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _edgekit(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.EdgekitError)
    status = status_of(error)
    if status >= 500:
        logger.error("%s: %s", error.code, error.message)
    more = {"code": error.code, "reasons": list(error.reasons), "hint": error.hint}
    return problem(status, type(error).__name__, error.message, **more)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [
        {"where": ".".join(str(part) for part in field["loc"]), "message": field["msg"]}
        for field in error.errors()
    ]
    detail = "; ".join(f"{field['where']}: {field['message']}" for field in fields)
    return problem(422, "The request is not valid", detail, code="usage", errors=fields)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, str(error.detail), code="link.server")
    answer.headers.update(error.headers or {})
    return answer


async def _bug(_request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected error", exc_info=error)
    return problem(500, "A bug in the fleet manager", "its log has the details", code="edgekit.bug")
