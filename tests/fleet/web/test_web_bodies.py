"""Request bodies are read up to a limit, however they arrive."""

import asyncio

import pytest
from fastapi import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request

from edgekit_fleet.web.bodies import BodyLimit, read_body


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


def answers(path, *events):
    """Send the first parts of a request through the limit, and no more; the answers' statuses."""
    sent = []

    async def receive():
        if events_left:
            return events_left.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(message):
        sent.append(message)

    async def application(scope, receive, send):
        await ExceptionMiddleware(_reading)(scope, receive, send)

    async def _reading(scope, receive, send):
        await read_body(Request(scope, receive), 100)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    events_left = list(events)
    limit = BodyLimit(application, unlimited=["/long"], stall_s=0.05)
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(asyncio.wait_for(limit(scope, receive, send), 20))
    return [message["status"] for message in sent if message["type"] == "http.response.start"]


@pytest.mark.parametrize("path", ["/short", "/long"])
def test_a_body_that_stops_in_the_middle_is_refused_with_408(path):
    assert answers(path, {"type": "http.request", "body": b"ab", "more_body": True}) == [408]


def test_a_whole_body_is_answered():
    assert answers("/short", {"type": "http.request", "body": b"ab", "more_body": False}) == [200]


def test_a_stream_may_wait_for_the_end_of_its_connection_for_long():
    """What is received after the whole body is the end of the connection, and has no limit."""
    waited = []

    async def receive():
        if not waited:
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def application(_scope, receive, _send):
        waited.append((await receive())["type"])
        waited.append((await receive())["type"])

    limit = BodyLimit(application, unlimited=[], stall_s=0.05)
    asyncio.run(limit({"type": "http", "path": "/live", "headers": []}, receive, None))
    assert waited == ["http.request", "http.disconnect"]
