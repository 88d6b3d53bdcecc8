"""Routes about devices: list, detail, charts, events, commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, Field

from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.broker.commanding import EXPIRES_S, MAX_EXPIRES_S
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.commands import CommandRow
from edgekit_fleet.store.devices import Device, Page
from edgekit_fleet.store.messages import TurnedAway
from edgekit_fleet.store.metrics import Event, Point
from edgekit_fleet.web.answers import encoded
from edgekit_fleet.web.auth import ByAdmin, ByOperator, Viewer
from edgekit_fleet.web.queries import Row, Text, UnixMs

DAY_MS = 24 * 3600 * 1000
Argument = Annotated[str, Field(max_length=200)]
Kind = Literal["event", "update", "alert", "answer", "measurement", "gap"]
TraceId = Annotated[str, Query(pattern="^([0-9a-f]{32})?$")]

router = APIRouter(tags=["devices"])


@dataclass(frozen=True)
class DeviceDetail:
    """Everything known about one device; ``birth``, ``reported`` and ``hardware`` as the device sent them.

    ``watermarks``: the number up to which each of its outboxes is committed, by the outbox's boot.
    """

    device: Device
    birth: dict[str, Any] | None
    reported: dict[str, Any] | None
    hardware: dict[str, Any] | None
    pipelines: list[str]
    watermarks: dict[str, int]
    certificates: list[dict[str, Any]]
    turned_away: list[TurnedAway]


@dataclass(frozen=True)
class Events:
    """Events, the newest first; ``next`` is the cursor of older ones."""

    items: list[Event]
    next: int | None


@dataclass(frozen=True)
class Series:
    """A chart; quantiles are over all frames of a step."""

    since_ms: int
    until_ms: int
    step_ms: int
    points: list[Point]


class NewCommand(BaseModel):
    """A command to send.

    ``args`` by kind: rollback {model}, restart {pipeline}, retry {model, version}, and switch {pipeline, to,
    reason}, where ``to`` is on, off, auto, or the name of a profile.
    """

    kind: Literal["rollback", "restart", "report", "retry", "switch"]
    args: dict[Argument, Argument] = Field(default_factory=dict, max_length=16)
    expires_s: int = Field(EXPIRES_S, ge=1, le=MAX_EXPIRES_S)


@router.get("/devices", dependencies=[Viewer], response_model=Page)
def devices(
    parts: Parts,
    after: Annotated[Text, Query(description="Cursor: `next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    search: Text = "",
    online: bool | None = None,
    profile: Text = "",
    model: Text = "",
    version: Text = "",
) -> Response:
    """List devices, ordered by id."""
    return encoded(
        parts.devices.page(
            after=after,
            limit=limit,
            search=search,
            online=online,
            profile=profile,
            model=model,
            version=version,
        )
    )


@router.get("/devices/{device}", dependencies=[Viewer])
def device_detail(parts: Parts, device: str) -> DeviceDetail:
    """Show one device."""
    known = _known(parts, device)
    documents = parts.devices.documents(device)
    return DeviceDetail(
        device=known,
        birth=documents["birth"],
        reported=documents["reported"],
        hardware=documents["hardware"],
        pipelines=parts.metrics.pipelines(device, unix_ms() - DAY_MS),
        watermarks=parts.messages.watermarks(device),
        certificates=parts.devices.certificates(device),
        turned_away=parts.messages.turned_away(device),
    )


@router.get(
    "/devices/{device}/desired",
    dependencies=[Viewer],
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def desired(parts: Parts, device: str) -> Response:
    """Return what a device shall run, as it is signed; 404 where nothing was ever desired of it."""
    _known(parts, device)
    body = parts.rollouts.desired.signed(device)
    if not body:
        raise HTTPException(404, f"Nothing was ever desired of '{device}': create a rollout that names it")
    return Response(body, media_type="application/json")


@router.get("/devices/{device}/series", dependencies=[Viewer])
def series(
    parts: Parts,
    device: str,
    since_ms: UnixMs = None,
    until_ms: UnixMs = None,
    step_s: Annotated[int, Query(ge=1, le=86400)] = 10,
    pipeline: Text = "",
) -> Series:
    """Chart one device: by default its last hour, of all pipelines together."""
    _known(parts, device)
    until = until_ms if until_ms is not None else unix_ms() + 1
    since = since_ms if since_ms is not None else until - DAY_MS // 24
    points = parts.metrics.series(
        device, since_ms=since, until_ms=until, step_ms=step_s * 1000, pipeline=pipeline
    )
    return Series(since, until, step_s * 1000, points)


@router.get("/devices/{device}/events", dependencies=[Viewer], response_model=Events)
def device_events(
    parts: Parts,
    device: str,
    before: Row = None,
    kind: Annotated[list[Kind] | None, Query(max_length=16)] = None,
    trace_id: TraceId = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List what happened on one device; with a trace's id the events that belong to it."""
    _known(parts, device)
    return _events(parts, device, before, kind, trace_id, limit)


@router.get("/events", dependencies=[Viewer], response_model=Events)
def events(
    parts: Parts,
    before: Row = None,
    kind: Annotated[list[Kind] | None, Query(max_length=16)] = None,
    trace_id: TraceId = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """List what happened on all devices; with a trace's id the events that belong to it."""
    return _events(parts, "", before, kind, trace_id, limit)


@router.get("/devices/{device}/commands", dependencies=[Viewer])
def commands(parts: Parts, device: str) -> list[CommandRow]:
    """List the commands of one device, the newest first."""
    _known(parts, device)
    return parts.commanding.of_device(device)


@router.post("/devices/{device}/commands", status_code=202)
def command(parts: Parts, by: ByOperator, device: str, new: NewCommand) -> CommandRow:
    """Send a device a command now, and again until it answers or the command expires."""
    if _known(parts, device).state == "revoked":
        raise HTTPException(409, f"Device '{device}' is revoked")
    return parts.commanding.command(device, new.kind, new.args, new.expires_s, by=by)


@router.post("/devices/{device}/revoke")
def revoke(parts: Parts, by: ByAdmin, device: str) -> Device:
    """Bar a device from connecting, and close its connection at once."""
    _known(parts, device)
    parts.enrolment.revoke(device, unix_ms(), by=by)
    parts.bus.publish("device", {"device": device, "revoked": True})
    return _known(parts, device)


@router.post("/devices/{device}/restore")
def restore(parts: Parts, by: ByAdmin, device: str) -> Device:
    """Let a revoked device connect again."""
    _known(parts, device)
    parts.enrolment.restore(device, unix_ms(), by=by)
    return _known(parts, device)


def _events(
    parts: Services, device: str, before: int | None, kind: list[Kind] | None, trace_id: str, limit: int
) -> Response:
    if trace_id and set(kind or ()) - {"event"}:
        raise HTTPException(422, "Only events have a trace: leave kind away beside trace_id")
    items = parts.metrics.events(
        device=device, before=before, kinds=kind or (), trace_id=trace_id, limit=limit
    )
    return encoded(Events(items, items[-1].id if len(items) == limit else None))


def _known(parts: Services, device: str) -> Device:
    known = parts.devices.get(device)
    if known is None:
        raise HTTPException(404, f"There is no device '{device[:64]}'")
    return known
