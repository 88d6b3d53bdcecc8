"""Errors as a client sees them: a status and the protocol's error document."""

from __future__ import annotations

import msgspec

from edgekit.core.errors import AcceleratorLostError, ConfigError, EdgekitError, TensorError

_MOST = 1000


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
    statuses = ((TensorError, 400), (AcceleratorLostError, 503), (ConfigError, 501))
    status = next((status for kind, status in statuses if isinstance(error, kind)), 500)
    return HttpError(status, error.one_line())


def error_body(message: str) -> bytes:
    """Return the protocol's error document, its message cut to 1,000 characters."""
    return msgspec.json.encode({"error": message if len(message) <= _MOST else message[:_MOST] + " …"})
