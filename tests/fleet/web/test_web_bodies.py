"""Request bodies are read up to a limit, however they arrive."""

import asyncio

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from edgekit_fleet.web.bodies import read_body


def request(*chunks):
    events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    events.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return events.pop(0)

    return Request({"type": "http", "headers": []}, receive)


def test_a_body_in_several_chunks_is_joined():
    assert asyncio.run(read_body(request(b"ab", b"cd"), 4)) == b"abcd"


def test_a_body_beyond_the_limit_is_refused_with_413():
    with pytest.raises(HTTPException) as refused:
        asyncio.run(read_body(request(b"ab", b"cde"), 4))
    assert refused.value.status_code == 413
