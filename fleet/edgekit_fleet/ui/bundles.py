"""The pages about published bundles."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from edgekit_fleet.registry.repository import Published, Repository
from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.site import Pages, Viewer
from edgekit_fleet.web.queries import Row, Text

PAGE = 50
HOLDERS = 200

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/bundles", dependencies=[Viewer])
def bundles(request: Request, site: Pages, model: Text = "", before: Row = None) -> Response:
    """List published bundles, the newest first."""
    rows = site.parts.repository.bundles(model=model, before=before, limit=PAGE + 1)
    return site.page(
        request,
        "bundles.html",
        bundles=rows[:PAGE],
        next=rows[PAGE - 1].number if len(rows) > PAGE else None,
        is_first=before is None,
        model=model,
        running=site.overview.running(),
    )


@router.get("/bundles/{model}/{version}", dependencies=[Viewer])
def bundle(request: Request, site: Pages, model: str, version: str) -> Response:
    """Show one bundle."""
    published = site.parts.repository.bundle(model, version)
    if published is None:
        raise HTTPException(404, f"No bundle {model[:80]} {version[:80]} is published")
    holders = site.overview.holders(model, version, HOLDERS + 1)
    return site.page(
        request,
        "bundle.html",
        bundle=published,
        bytes_of={
            variant.id: sum(file.bytes for file in variant.files) for variant in published.manifest.variants
        },
        holders=holders[:HOLDERS],
        has_more=len(holders) > HOLDERS,
        signers=_signers(site.parts.repository, published),
    )


def _signers(registry: Repository, bundle: Published) -> list[dict[str, Any]]:
    """Return key id and scheme of the signatures of the targets that list a bundle (checked before)."""
    targets, root = registry.metadata("targets"), registry.metadata("root")
    if targets is None or root is None:
        return []
    document, keys = json.loads(targets), json.loads(root)["signed"]["keys"]
    if bundle.target.path not in document["signed"]["targets"]:
        return []
    return [
        {"id": signature["keyid"], "scheme": keys.get(signature["keyid"], {}).get("scheme", "?")}
        for signature in document["signatures"]
    ]
