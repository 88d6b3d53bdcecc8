"""The first page: devices by state, current rollouts, alerts and latest events."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.happenings import Happening, happening
from edgekit_fleet.ui.rollouts import Progress, progress_of_open
from edgekit_fleet.ui.site import Pages, Site, Viewer

router = APIRouter(route_class=PageRoute, include_in_schema=False)
LATEST = 20
_KINDS = ("event", "update", "alert", "gap")


@dataclass(frozen=True)
class _Summary:
    """The fleet in a few numbers."""

    states: dict[str, int]
    total: int
    fps: float
    p95_ms: float
    rollouts: list[Progress]
    alerts: list[Happening]
    latest: list[Happening]


@router.get("/", dependencies=[Viewer])
def show(request: Request, site: Pages) -> Response:
    """Show the fleet as a whole."""
    return site.page(
        request,
        "overview.html",
        summary=_summary(site),
        health=site.parts.health(),
        warnings=site.parts.warnings(),
    )


def _summary(site: Site) -> _Summary:
    states = site.overview.counts(site.recent.conditions())
    pace = site.recent.everyone()
    metrics = site.parts.metrics
    return _Summary(
        states=states,
        total=sum(states.values()),
        fps=pace.fps,
        p95_ms=pace.p95_ms,
        rollouts=progress_of_open(site),
        alerts=[happening(event) for event in metrics.events(kinds=("alert", "gap"), limit=6)],
        latest=[happening(event) for event in metrics.events(kinds=_KINDS, limit=LATEST)],
    )
