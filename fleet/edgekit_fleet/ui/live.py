"""Server-sent events for open pages: which devices, rollouts and bundles changed, not how."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.site import Pages, Viewer
from edgekit_fleet.web.bus import Bus, Change

PAUSE_S = 0.3
"""Changes are gathered for this long, so that frequent changes cause one event."""
MAX_IDS = 200
LIFE_S = 600.0
"""A stream ends after this; the browser reconnects, and its session is checked again."""
EVERY = "*"

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/live", dependencies=[Viewer], response_class=StreamingResponse)
async def live(request: Request, site: Pages) -> Response:
    """Follow what changes."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":  # nobody reads the stream
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(stream(site.parts.bus), media_type="text/event-stream", headers=headers)


async def stream(bus: Bus, pause_s: float = PAUSE_S, life_s: float = LIFE_S) -> AsyncIterator[bytes]:
    """Yield ``{"device": ["cam-1"], ...}``: ids by topic, or ``*`` where they are too many.

    The watch of the bus begins before the first bytes are sent. A page refreshes itself when they arrive,
    so no change in between is missed.
    """
    changed: dict[str, set[str]] = {}
    arrived = asyncio.Event()

    async def gather() -> None:
        async for change in bus.watch():
            if change is not None:
                note(changed, change)
            arrived.set()

    gathering = asyncio.create_task(gather())
    gathering.add_done_callback(lambda _: arrived.set())
    ends_s = time.monotonic() + life_s
    try:
        await arrived.wait()  # the watch has begun, or was refused
        if not changed:
            arrived.clear()
        yield b"retry: 2000\n\n"
        while not gathering.done() and time.monotonic() < ends_s:
            await arrived.wait()
            if changed:
                await asyncio.sleep(pause_s)
            arrived.clear()
            sent = {topic: sorted(ids) for topic, ids in changed.items()}
            changed.clear()
            yield b"data: %s\n\n" % msgspec.json.encode(sent) if sent else b": quiet\n\n"
    finally:
        gathering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gathering


def note(changed: dict[str, set[str]], change: Change) -> None:
    """Add a change to those gathered. Metric reports are a topic of their own, which most pages ignore.

    >>> gathered = {}
    >>> note(gathered, Change("event", {"device": "cam-1", "metric": 2}))
    >>> gathered
    {'metric': {'cam-1'}}
    """
    topics = [change.topic]
    if change.topic == "event":
        kinds = change.data.keys() - {"device"}
        topics = ["metric"] * ("metric" in kinds) + ["event"] * bool(kinds - {"metric"})
    key = {"rollout": "id", "bundle": "model"}.get(change.topic, "device")
    for topic in topics:
        ids = changed.setdefault(topic, set())
        if EVERY not in ids:
            ids.add(str(change.data.get(key, EVERY)))
            if len(ids) > MAX_IDS:
                changed[topic] = {EVERY}
