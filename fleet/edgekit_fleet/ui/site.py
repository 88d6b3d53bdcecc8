"""What every page uses: templates, the signed-in user, the formatting of values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, cast
from urllib.parse import parse_qsl

import jinja2
from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse

from edgekit_fleet import __version__
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.cameras.service import CameraService
from edgekit_fleet.ingest.ports import Hooks
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.rollout.engine import Engine
from edgekit_fleet.store.audit import Actor, Audit
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.metrics import Metrics
from edgekit_fleet.store.overview import Overview
from edgekit_fleet.store.sessions import Sessions
from edgekit_fleet.store.tokens import Role, Token, Tokens
from edgekit_fleet.ui.assets import HOW_TO_FETCH, Assets
from edgekit_fleet.ui.guard import SignInNeededError
from edgekit_fleet.ui.judging import Judge
from edgekit_fleet.ui.recent import FRESH_MS, Recent
from edgekit_fleet.web.auth import actor
from edgekit_fleet.web.bus import Bus
from edgekit_fleet.web.health import Health

COOKIE = "edgekit_session"


@dataclass(frozen=True)
class UiParts:
    """The parts of the fleet manager that the pages show.

    Args:
        is_tls: Whether browsers reach the fleet manager by HTTPS.
    """

    database: Database
    tokens: Tokens
    devices: Devices
    metrics: Metrics
    messages: Messages
    commanding: Commanding
    repository: Repository
    engine: Engine
    bus: Bus
    hooks: Hooks
    health: Callable[[], Health]
    warnings: Callable[[], list[str]]
    audit: Audit
    cameras: CameraService
    is_tls: bool


class Site:
    """The web UI of one fleet."""

    def __init__(self, parts: UiParts, assets: Assets) -> None:
        self.parts, self.assets = parts, assets
        self.sessions = Sessions(parts.database)
        self.overview = Overview(parts.database)
        self.recent = Recent(unix_ms)
        self.judge = Judge(parts.database)
        self.cookie = f"__Host-{COOKIE}" if parts.is_tls else COOKIE
        parts.hooks.on_reported.append(self.recent.take_reported)
        parts.hooks.on_committed.append(self.recent.take_records)
        for device, reported in self.overview.reported():
            self.recent.take_reported(device, reported)
        for device, pipeline, at_ms, period_s, frames, infer in self.overview.latest(unix_ms() - FRESH_MS):
            self.recent.take(device, pipeline, at_ms, period_s, frames, infer)
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("edgekit_fleet.ui"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(asset=assets.url, version=__version__, how_to_fetch=HOW_TO_FETCH)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a rendered page."""
        text = self._templates.get_template(template).render(
            path=request.url.path,
            visitor=self.visitor(request),
            missing=self.assets.missing,
            now_ms=unix_ms(),
            **values,
        )
        return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})

    def visitor(self, request: Request) -> Token | None:
        """Return the token of the signed-in user; None if nobody is signed in."""
        text = request.cookies.get(self.cookie)
        return self.sessions.find(text, unix_ms()) if text else None


def site_of(request: Request) -> Site:
    """Return the web UI (dependency of every page)."""
    return cast("Site", request.app.state.site)


Pages = Annotated[Site, Depends(site_of)]


def signed_in(role: Role) -> Callable[..., Token]:
    """Return a dependency that rejects sessions whose role does not include ``role``."""

    def check(request: Request, site: Pages) -> Token:
        token = site.visitor(request)
        if token is None:
            raise SignInNeededError
        if not token.may(role):
            raise HTTPException(403, f"This needs the role '{role}'; you are signed in as '{token.role}'")
        return token

    return check


def acting(role: Role) -> Callable[..., Actor]:
    """Return a dependency as ``signed_in`` does, that gives the actor for the audit log."""
    has_role = Depends(signed_in(role))

    def check(request: Request, token: Token = has_role) -> Actor:
        return actor(request, token)

    return check


async def _form(request: Request) -> dict[str, str]:
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError as cause:
        raise HTTPException(400, "The form cannot be read") from cause


Form = Annotated[dict[str, str], Depends(_form)]
Viewer = Depends(signed_in("viewer"))
Operator = Depends(signed_in("operator"))
Admin = Depends(signed_in("admin"))
ByOperator = Annotated[Actor, Depends(acting("operator"))]


# ---------------------------------------------------------------------------------------------
# Formatting


def age(since_ms: float | None, now: float) -> str:
    """Return how long ago something was.

    >>> age(0, 90_000), age(None, 5)
    ('1 min ago', 'never')
    """
    if not since_ms and since_ms != 0:
        return "never"
    seconds = max(int((now - since_ms) / 1000), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago" if seconds >= 5 else "just now"


def clock(unix_ms: float) -> str:
    """Return a time as ``2025-01-31 13:05:59`` (UTC).

    >>> clock(1738328759000)
    '2025-01-31 13:05:59'
    """
    moment = datetime.fromtimestamp(min(max(unix_ms, 0), 4e12) / 1000, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def size(count: float) -> str:
    """Return a number of bytes in a readable unit.

    >>> size(999), size(5_300_000)
    ('999 B', '5.3 MB')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"


def short(value: float, unit: str = "") -> str:
    """Return a number with three significant digits; a dash for zero and non-finite numbers.

    >>> short(0.123456, "ms"), short(1234.5)
    ('0.123 ms', '1234')
    """
    if not value or not math.isfinite(value):
        return "\u2013"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def quantity(name: str) -> str:
    """Return the quantity that a name stands for, without its unit.

    >>> quantity("temperature_c")
    'temperature'
    """
    stem, _, suffix = name.rpartition("_")
    return (stem if suffix in UNITS else name).replace("_", " ")


def unit(name: str) -> str:
    """Return the unit that a name ends in, as it is written after a number; empty without one."""
    return UNITS.get(name.rpartition("_")[2], "")


UNITS = {"c": "\u00b0C", "w": "W", "mhz": "MHz", "mb": "MB", "v": "V", "percent": "%"}
FILTERS: dict[str, Callable[..., str]] = {
    "age": age,
    "clock": clock,
    "size": size,
    "short": short,
    "quantity": quantity,
    "unit": unit,
}
