"""The stream of changes of the REST API, without HTTP."""

import asyncio
from types import SimpleNamespace

from edgekit_fleet.app.watching import sse
from edgekit_fleet.web.bus import Bus


def test_once_the_stream_has_begun_no_change_is_missed():
    async def follow():
        bus = Bus()
        told = sse(SimpleNamespace(bus=bus))
        greeting = await anext(told)
        bus.publish("device", {"device": "cam-1"})
        change = await anext(told)
        await told.aclose()
        return greeting, change

    greeting, change = asyncio.run(asyncio.wait_for(follow(), 10))
    assert greeting.startswith(b":")
    assert change == b'event: device\ndata: {"device":"cam-1"}\n\n'
