"""Routes for the audit log: pages, and an export whose hash chain can be checked anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from edgekit_fleet.app.services import Parts
from edgekit_fleet.store.audit import Entry
from edgekit_fleet.web.auth import Admin
from edgekit_fleet.web.paging import page_of
from edgekit_fleet.web.queries import MAX_ROW, Row, Text

MAX_EXPORTED = 500

router = APIRouter(tags=["audit"], dependencies=[Admin])


@dataclass(frozen=True)
class Entries:
    """Entries of the audit log, the newest first; ``next`` is the cursor of older ones."""

    items: list[Entry]
    next: int | None


@router.get("/audit")
def entries(
    parts: Parts,
    before: Row = None,
    subject: Text = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Entries:
    """List who changed what: the whole fleet's changes, or those of one device, rollout or token."""
    rows = parts.audit.page(subject=subject, before=before, limit=limit + 1)
    return Entries(*page_of(rows, limit, lambda entry: entry.number))


@router.get("/audit/export", response_class=Response)
def export(
    parts: Parts,
    after: Annotated[
        int, Query(ge=0, le=MAX_ROW, description="The number of the last entry that you have")
    ] = 0,
) -> Response:
    """Return up to 500 entries, the oldest first, one JSON document a line; none at the end of the log."""
    lines = [msgspec.json.encode(entry) + b"\n" for entry in parts.audit.after(after, MAX_EXPORTED)]
    return Response(b"".join(lines), media_type="application/x-ndjson")
