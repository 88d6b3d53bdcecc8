"""Routes for monitoring: health, live changes, Prometheus metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from edgekit_fleet import __version__
from edgekit_fleet.app.metrics import render
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.web.auth import Operator, Viewer, authorize
from edgekit_fleet.web.throttle import throttle_of

router = APIRouter(tags=["watching"])
metrics_router = APIRouter(tags=["watching"])


@dataclass(frozen=True)
class HealthReport:
    """Whether the fleet manager works."""

    ok: bool
    problems: tuple[str, ...]
    version: str
    broker_connected: bool
    broker_restarts: int


@dataclass(frozen=True)
class RefusedMessage:
    """A message that could not be used."""

    device: str
    topic: str
    arrived_ms: int
    reason: str
    bytes: int


@router.get("/health")
def health(parts: Parts) -> HealthReport:
    """Say whether the fleet manager works; needs no token."""
    state = parts.health()
    return HealthReport(
        ok=not state.problems,
        problems=state.problems,
        version=__version__,
        broker_connected=state.is_connected,
        broker_restarts=state.broker_restarts,
    )


@router.get("/metrics", dependencies=[Viewer])
def totals(parts: Parts) -> dict[str, dict[str, int]]:
    """Return counts of devices and stored rows, and the ingest counters since the start."""
    return {
        "devices": parts.devices.counts(),
        "stored": parts.messages.counts(),
        "ingest": parts.health().counters,
    }


@router.get("/refused", dependencies=[Operator])
def refused(parts: Parts) -> list[RefusedMessage]:
    """List messages that could not be used, the newest first."""
    return [
        RefusedMessage(message.device, message.topic, message.arrived_ms, message.reason, len(message.body))
        for message in parts.messages.refused()
    ]


@router.get("/stream", dependencies=[Viewer], response_class=StreamingResponse)
async def stream(parts: Parts) -> StreamingResponse:
    """Follow changes as server-sent events: ``device``, ``event``, ``command``, ``rollout``, ``bundle``."""
    return StreamingResponse(
        sse(parts),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def sse(parts: Services) -> AsyncIterator[bytes]:
    """Yield changes as server-sent events; a comment at first, and while there are no changes."""
    async for change in parts.bus.watch():
        if change is None:
            yield b": quiet\n\n"
        else:
            yield b"event: %s\ndata: %s\n\n" % (change.topic.encode(), msgspec.json.encode(change.data))


@metrics_router.get("/metrics", response_class=PlainTextResponse)
def prometheus(request: Request, parts: Parts) -> PlainTextResponse:
    """Return the fleet's own metrics in Prometheus's text format.

    Needs a viewer's token, unless the fleet manager listens on loopback only.
    """
    if not parts.settings.is_loopback:
        authorize(request, "viewer")
    text = render(parts, throttle_of(request))
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")
