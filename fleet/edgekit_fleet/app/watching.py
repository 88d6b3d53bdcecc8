"""Routes for monitoring: health, live changes, Prometheus metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from edgekit_fleet import __version__
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.web.auth import Operator, Viewer, authorize
from edgekit_fleet.web.throttle import Throttle, throttle_of

router = APIRouter(tags=["watching"])
metrics_router = APIRouter(tags=["watching"])


@dataclass(frozen=True)
class HealthReport:
    """Whether the fleet manager works."""

    ok: bool
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
        ok=state.is_connected and state.is_ingesting,
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


def render(parts: Services, throttle: Throttle) -> str:
    """Return the metrics' text.

    Source: Prometheus, "Exposition formats", text format 0.0.4.
    """
    state = parts.health()
    table: list[tuple[str, str, str, dict[str, int]]] = [
        ("devices", "gauge", "Devices by state.", _labelled("state", parts.devices.counts())),
        ("rows", "gauge", "Rows stored, by table.", _labelled("table", parts.messages.counts())),
        ("ingest_total", "counter", "What ingest counted.", _labelled("what", state.counters)),
        ("broker_up", "gauge", "Whether the broker is connected.", {"": int(state.is_connected)}),
        (
            "device_certificates",
            "gauge",
            "Devices whose certificate ends within three weeks, or has ended.",
            _labelled("state", parts.certificates.devices()),
        ),
        (
            "certificate_end_seconds",
            "gauge",
            "When a certificate of the fleet ends, Unix time.",
            _labelled("of", {name: end // 1000 for name, end in parts.certificates.ends_ms().items()}),
        ),
        (
            "refused_secrets_total",
            "counter",
            "Wrong tokens, sign-ins and enrolments.",
            _labelled("kind", throttle.refused),
        ),
        (
            "delayed_attempts_total",
            "counter",
            "Attempts that were not looked at, because their address had to wait.",
            {"": throttle.delayed},
        ),
        ("audit_entries", "gauge", "Entries of the audit log.", {"": parts.audit.count()}),
        ("broker_restarts_total", "counter", "Restarts of the embedded broker.", {"": state.broker_restarts}),
    ]
    lines: list[str] = []
    for name, kind, text, values in table:
        lines += [f"# HELP edgekit_fleet_{name} {text}", f"# TYPE edgekit_fleet_{name} {kind}"]
        lines += [f"edgekit_fleet_{name}{label} {value}" for label, value in values.items()]
    return "\n".join(lines) + "\n"


def _labelled(label: str, values: dict[str, int]) -> dict[str, int]:
    return {f'{{{label}="{key}"}}': value for key, value in sorted(values.items())}
