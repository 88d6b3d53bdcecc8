"""The pages about devices: the list, one device, its charts and commands."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from edgekit.core import wire
from edgekit.core.spec import Facts
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.devices import Device
from edgekit_fleet.store.metrics import Point
from edgekit_fleet.store.overview import STATES, Filter, Row
from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.happenings import happening
from edgekit_fleet.ui.recent import IDLE, Measure, Pace
from edgekit_fleet.ui.site import ByOperator, Form, Pages, Site, Viewer
from edgekit_fleet.web import queries
from edgekit_fleet.web.queries import PageNumber, Text

PAGE = 50
MAX_ROWS = 100
EVENTS = 40
SPANS_S = {"15m": 900, "1h": 3600, "6h": 21600, "24h": 86400}
_POINTS = 180
_ARGUMENTS = {
    "rollback": ("model",),
    "restart": ("pipeline",),
    "report": (),
    "retry": ("model", "version"),
    "switch": ("pipeline", "to", "reason"),
}
_SILENT = {"online": False, "boot": "", "conn": 0}
_NOTHING = wire.Reported(boot="", version=0, desired=0)
Sort = Literal["id", "state", "profile", "fps", "p95", "seen"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    id: str
    state: str
    profile: str
    models: list[tuple[str, str, str]]
    pace: Pace
    seen_ms: int


@dataclass(frozen=True)
class Listing:
    """One page of the list; pages count from 1."""

    lines: list[Line]
    total: int
    page: int
    pages: int


def state_of(site: Site, row: Row) -> str:
    """Return the state of a device as one word."""
    if row.is_revoked:
        return "revoked"
    return (site.recent.condition(row.id) or "online") if row.is_online else "offline"


@router.get("/devices", dependencies=[Viewer])
def devices(
    request: Request,
    site: Pages,
    q: Text = "",
    state: Text = "",
    sort: Sort = "id",
    down: bool = False,
    page: PageNumber = 1,
) -> Response:
    """List the devices that match a filter."""
    listing = _listing(site, q, state, sort, down=down, page=page)
    return site.page(
        request, "devices.html", listing=listing, q=q, state=state, sort=sort, down=down, states=STATES
    )


@router.get("/devices-rows", dependencies=[Viewer])
def rows(request: Request, site: Pages, id: Annotated[list[Text] | None, Query()] = None) -> Response:  # noqa: A002 - the URL's word
    """Return the rows of some devices; an open list requests those that changed."""
    changed = site.overview.rows((id or [])[:MAX_ROWS])
    return site.page(request, "rows.html", lines=_lines(site, changed))


def _listing(site: Site, q: str, state: str, sort: Sort, *, down: bool, page: int) -> Listing:
    which = Filter(q.lower(), state, site.recent.conditions())
    if sort == "fps" or sort == "p95":  # noqa: PLR1714 - mypy narrows the type by comparisons only
        everybody = _by_pace(site, site.overview.ids(which), sort, down=down)
        page, pages = _existing(page, total := len(everybody))
        ids = everybody[(page - 1) * PAGE : page * PAGE]
    else:
        page, pages = _existing(page, total := site.overview.matching(which))
        ids = site.overview.ids(which, sort, down=down, limit=PAGE, offset=(page - 1) * PAGE)
    return Listing(_lines(site, site.overview.rows(ids)), total, page, pages)


def _existing(page: int, total: int) -> tuple[int, int]:
    """Return the page to show, and how many there are."""
    pages = max(math.ceil(total / PAGE), 1)
    return min(max(page, 1), pages), pages


def _by_pace(site: Site, ids: list[str], by: Measure, *, down: bool) -> list[str]:
    """Return devices in the order of what they reported in the last minute, which the store does not know."""
    chosen = set(ids)
    ranked = [device for device in site.recent.ranked(by) if device in chosen]
    if silent := chosen.difference(ranked):
        ranked = [device for device in ids if device in silent] + ranked
    return ranked[::-1] if down else ranked


def _lines(site: Site, rows: list[Row]) -> list[Line]:
    models = site.overview.models([row.id for row in rows])
    return [
        Line(
            row.id,
            state_of(site, row),
            row.profile,
            models.get(row.id, []),
            site.recent.pace(row.id) if row.is_online else Pace(),
            row.seen_ms,
        )
        for row in rows
    ]


@router.get("/devices/{device}", dependencies=[Viewer])
def detail(
    request: Request, site: Pages, device: str, span: Text = "15m", before: queries.Row = None
) -> Response:
    """Show one device."""
    known = _known(site, device)
    documents = site.parts.devices.documents(device)
    birth = msgspec.convert(documents["birth"] or _SILENT, wire.Birth)
    enrolled_with = msgspec.convert(documents["hardware"] or {"arch": ""}, Facts)
    reported = site.parts.devices.reported(device) or _NOTHING
    events = site.parts.metrics.events(device=device, before=before, limit=EVENTS)
    return site.page(
        request,
        "device.html",
        device=known,
        state=state_of(site, site.overview.rows([device])[0]),
        hardware=birth.hardware or enrolled_with,
        backends=birth.backends,
        reported=reported,
        updates=[(name, update) for name, update in reported.updates.items() if update.state not in IDLE],
        pace=site.recent.pace(device),
        events=[happening(event) for event in events],
        older=events[-1].id if len(events) == EVENTS else None,
        is_first=before is None,
        certificate_ends=_day(site.parts.devices.certificates(device)),
        commands=site.parts.commanding.of_device(device)[:6],
        turned_away=site.parts.messages.turned_away(device),
        cameras=site.parts.cameras.effective(device),
        labels=site.parts.cameras.store.labels(device),
        has_cameras=site.parts.cameras.wanted_sha256(device) == reported.cameras.sha256,
        spans=SPANS_S,
        span=span if span in SPANS_S else "15m",
    )


@router.get("/devices/{device}/series", dependencies=[Viewer])
def series(site: Pages, device: str, span: Text = "15m") -> Response:
    """Return the data of a device's charts."""
    _known(site, device)
    span_ms = SPANS_S.get(span, 900) * 1000
    until_ms = unix_ms() + 1
    points = site.parts.metrics.series(
        device, since_ms=until_ms - span_ms, until_ms=until_ms, step_ms=max(span_ms // _POINTS, 5000)
    )
    return JSONResponse(columns(points), headers={"Cache-Control": "no-store"})


def columns(points: list[Point]) -> dict[str, Any]:
    """Return the data of charts by column, with a column for each of the first four temperatures."""
    sensors = sorted({name for point in points for name in point.sensors if name.endswith("_c")})
    return {
        "at_s": [point.at_ms / 1000 for point in points],
        "fps": [round(point.fps, 3) for point in points],
        "p50": [point.infer_p50_ms for point in points],
        "p95": [point.infer_p95_ms for point in points],
        "p99": [point.infer_p99_ms for point in points],
        "dropped": [point.dropped for point in points],
        "errors": [point.errors for point in points],
        **{name: [point.sensors.get(name) for point in points] for name in sensors[:4]},
    }


@router.post("/devices/{device}/commands")
def command(site: Pages, by: ByOperator, device: str, form: Form) -> Response:
    """Command a device."""
    if _known(site, device).state == "revoked":
        raise HTTPException(409, f"Device '{device}' is revoked")
    kind = form.get("kind", "")
    if kind not in _ARGUMENTS:
        raise HTTPException(422, f"There is no command {kind[:40]!r}")
    args = {name: form[name] for name in _ARGUMENTS[kind] if form.get(name)}
    site.parts.commanding.command(device, kind, args, by=by)
    return RedirectResponse(f"/devices/{device}", 303)


def _day(certificates: list[dict[str, Any]]) -> str:
    """Return the day on which the newest certificate ends; empty without one."""
    if not certificates:
        return ""
    return time.strftime("%Y-%m-%d", time.gmtime(certificates[0]["expires_ms"] / 1000))


def _known(site: Site, device: str) -> Device:
    known = site.parts.devices.get(device)
    if known is None:
        raise HTTPException(404, f"There is no device '{device[:64]}'")
    return known
