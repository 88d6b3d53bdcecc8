"""Complete answers."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.serve.errors import HttpError, error_body

JSON = (b"content-type", b"application/json")


class Reply(msgspec.Struct, frozen=True):
    """One answer's body, status and headers; its length is added."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


class Done(msgspec.Struct, frozen=True):
    """A model's answer, and the seconds that its stages took; ``is_kept``: of an earlier request."""

    reply: Reply
    pre_s: float
    infer_s: float
    post_s: float
    is_kept: bool = False


def json_reply(document: Any, status: int = 200) -> Reply:
    """Return an answer with a JSON document."""
    return Reply(msgspec.json.encode(document), status)


def refusal(error: HttpError) -> Reply:
    """Return the answer to a request that is refused."""
    return Reply(error_body(error.message), error.status, (JSON, *error.headers))
