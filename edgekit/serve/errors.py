"""How a refusal reaches a client: a status and the protocol's error document."""

from __future__ import annotations

import msgspec

from edgekit.core.errors import AcceleratorLostError, ConfigError, EdgekitError, TensorError

_MOST = 1000


class HttpError(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        message: What is wrong, for a person.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class ClientGoneError(Exception):
    """The client hung up before its answer was ready; there is no one to answer."""


def as_http(error: EdgekitError) -> HttpError:
    """Return the answer to a request whose work raised this.

    >>> as_http(TensorError("input 'x': want FP32")).status
    400
    """
    status = 500
    if isinstance(error, TensorError):
        status = 400
    elif isinstance(error, AcceleratorLostError):
        status = 503
    elif isinstance(error, ConfigError):
        status = 501
    told = "; ".join((error.message, *error.reasons))
    return HttpError(status, f"{told} (fix: {error.hint})" if error.hint else told)


def error_body(message: str) -> bytes:
    """Return the protocol's error document; what a request made long is cut."""
    told = message if len(message) <= _MOST else message[:_MOST] + " …"
    return msgspec.json.encode({"error": told})
