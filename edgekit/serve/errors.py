"""Errors as a client sees them: a status and the protocol's error document."""

from __future__ import annotations

import math

import msgspec

from edgekit.core.errors import (
    AcceleratorLostError,
    BusyError,
    ConfigError,
    EdgekitError,
    LateError,
    TensorError,
)

_MOST = 1000
_STATUSES = (
    (TensorError, 400),
    (BusyError, 429),
    (AcceleratorLostError, 503),
    (LateError, 504),
    (ConfigError, 501),
)


class HttpError(Exception):
    """A request that is answered with an error: HTTP status, message, additional headers."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class ClientGoneError(Exception):
    """The client hung up before its answer was ready."""


def as_http(error: EdgekitError) -> HttpError:
    """Return the HTTP error for an error of edgekit.

    >>> as_http(TensorError("input 'x': want FP32")).status
    400
    """
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    wait_s = getattr(error, "wait_s", None)
    retry = () if wait_s is None else ((b"retry-after", str(max(1, math.ceil(wait_s))).encode()),)
    return HttpError(status, error.one_line(), retry)


def error_body(message: str) -> bytes:
    """Return the protocol's error document, its message cut to 1,000 characters."""
    return msgspec.json.encode({"error": message if len(message) <= _MOST else message[:_MOST] + " …"})
