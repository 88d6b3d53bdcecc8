"""The page of the audit log, and what was refused because of a wrong secret."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request, Response

from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.site import Admin, Pages
from edgekit_fleet.web.paging import page_of
from edgekit_fleet.web.queries import Row, Text
from edgekit_fleet.web.throttle import throttle_of

PAGE = 50
MAX_TEXT = 300

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/audit", dependencies=[Admin])
def audit(request: Request, site: Pages, subject: Text = "", before: Row = None) -> Response:
    """List who changed what, the newest first."""
    rows = site.parts.audit.page(subject=subject, before=before, limit=PAGE + 1)
    entries, following = page_of(rows, PAGE, lambda entry: entry.number)
    throttle = throttle_of(request)
    return site.page(
        request,
        "audit.html",
        entries=[(entry, shortened(entry.before), shortened(entry.after)) for entry in entries],
        next=following,
        is_first=before is None,
        subject=subject,
        refused=dict(throttle.refused),
        delayed=throttle.delayed,
    )


def shortened(value: object) -> str:
    """Return what a thing was, or is, as a short text.

    >>> shortened({"state": "paused"}), shortened("approved")
    ('{"state": "paused"}', 'approved')
    """
    text = "\u2013" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\u2026"
