"""The registry over HTTP: TUF metadata and targets for devices; publishing and bundles for people."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from edgekit.core.errors import UsageError
from edgekit_fleet.registry import trust
from edgekit_fleet.registry.blobs import SHA256, Blobs, Upload
from edgekit_fleet.registry.repository import MAX_ROOTS, Published, Repository
from edgekit_fleet.web import paging
from edgekit_fleet.web.auth import ByPublisher, Publisher, Viewer
from edgekit_fleet.web.bodies import body_of, declared_bytes, schema_of
from edgekit_fleet.web.queries import Row, Text

MAX_UPLOADS = 8
"""Concurrent uploads; further ones wait unread, so that memory and disk bandwidth stay bounded."""
MAX_WANTED_BYTES = 2 << 20
MAX_SUBMISSION_BYTES = 16 << 20
LONG_BODIES = ("/api/v1/registry/missing", "/api/v1/registry/blobs/", "/api/v1/bundles")
"""Paths whose routes read long bodies, once they know that a publisher sends them."""
_BUFFER_BYTES = 1 << 20
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_FRESH = {"Cache-Control": "no-cache"}
_SHA256 = "[0-9a-f]{64}"


class Blob(BaseModel):
    """A file by its content."""

    sha256: Annotated[str, Field(pattern=_SHA256)]
    bytes: Annotated[int, Field(ge=0)]


class Wanted(BaseModel):
    """The files of a bundle that is to be published."""

    blobs: Annotated[list[Blob], Field(max_length=10_000)]


class Submission(BaseModel):
    """What a publisher signed: metadata as the JSON text that the signatures cover."""

    roots: Annotated[list[str], Field(max_length=MAX_ROOTS)] = []
    targets: Annotated[str, Field(max_length=trust.MAX_TARGETS_BYTES)]


def tuf_router(repository: Repository) -> APIRouter:
    """Return the routes that devices fetch from; they need no token, since everything there is signed."""
    router = APIRouter(prefix="/tuf", tags=["tuf"])

    @router.get("/metadata/{name}")
    def metadata(name: str) -> Response:
        """Return TUF metadata: ``timestamp.json``, or ``N.root.json``, ``N.snapshot.json``, ...."""
        version, _, role = name.removesuffix(".json").rpartition(".")
        is_known = role in {"root", "snapshot", "targets"} and version.isdecimal() and len(version) < 16
        if not name.endswith(".json") or not (is_known or name == "timestamp.json"):
            raise HTTPException(404, f"no metadata {name[:80]!r}")
        body = repository.metadata(role, int(version) if is_known else None)
        if body is None:
            raise HTTPException(404, f"no metadata {name!r}")
        headers = _FOREVER if is_known else _FRESH
        return Response(body, media_type="application/json", headers=headers)

    @router.head("/targets/blobs/{sha256}", include_in_schema=False)
    @router.get("/targets/blobs/{sha256}")
    def blob(sha256: str) -> FileResponse:
        """Return a bundle's file by its SHA-256; a part of it where ``Range`` asks for one."""
        return _file(repository.blobs, sha256, "application/octet-stream")

    @router.head("/targets/{model}/{version}/{name}", include_in_schema=False)
    @router.get("/targets/{model}/{version}/{name}")
    def manifest(model: str, version: str, name: str) -> FileResponse:
        """Return a bundle's manifest, ``<sha256>.bundle.json``."""
        bundle = repository.bundle(model, version)
        if bundle is None or name != f"{bundle.sha256}.bundle.json":
            raise HTTPException(404, f"no target {model[:80]}/{version[:80]}/{name[:120]}")
        return _file(repository.blobs, bundle.sha256, "application/json")

    @router.head("/targets/measure/{model}/{sha256}/{name}", include_in_schema=False)
    @router.get("/targets/measure/{model}/{sha256}/{name}")
    def measured(model: str, sha256: str, name: str) -> FileResponse:
        """Return the manifest of a bundle for measuring only, ``<sha256>.bundle.json``."""
        if name != f"{sha256}.bundle.json" or not repository.is_measured(model, sha256):
            raise HTTPException(404, f"no target measure/{model[:80]}/{sha256[:80]}/{name[:120]}")
        return _file(repository.blobs, sha256, "application/json")

    return router


def publishing_router(repository: Repository) -> APIRouter:
    """Return the routes that ``edgekit-fleet keys`` and ``publish`` use."""
    router = APIRouter(prefix="/api/v1/registry", tags=["registry"])
    slots = asyncio.Semaphore(MAX_UPLOADS)

    @router.get("/keys")
    def keys() -> dict[str, str]:
        """Return the public halves of the fleet's online keys, which a publisher's root names."""
        return dataclasses.asdict(repository.online_keys())

    @router.get("/metadata/{role}", dependencies=[Publisher])
    def metadata(role: str, version: Row = None) -> Response:
        """Return a version of a role's metadata, or the newest; 204 where there is none."""
        body = repository.metadata(role, version)
        return Response(status_code=204) if body is None else Response(body, media_type="application/json")

    @router.post("/missing", dependencies=[Publisher], openapi_extra=schema_of(Wanted))
    def missing(
        wanted: Annotated[Wanted, Depends(body_of(Wanted, MAX_WANTED_BYTES))],
    ) -> dict[str, list[str]]:
        """Return which of a bundle's files the fleet does not have yet."""
        return {"missing": repository.missing([(blob.sha256, blob.bytes) for blob in wanted.blobs])}

    @router.put("/blobs/{sha256}", status_code=201, dependencies=[Publisher])
    async def upload(sha256: str, request: Request) -> dict[str, Any]:
        """Receive a file; when this answers, the file is on disk, complete and checked."""
        content_length = declared_bytes(request.headers)
        if content_length is None:
            raise UsageError("an upload needs its length", hint="send Content-Length")
        async with slots:
            entry = await run_in_threadpool(repository.blobs.receive, sha256, content_length)
            await _receive(request, entry)
        return {"sha256": sha256, "bytes": content_length}

    return router


def bundles_router(repository: Repository) -> APIRouter:
    """Return the routes about published bundles."""
    router = APIRouter(prefix="/api/v1/bundles", tags=["bundles"])

    @router.post("", status_code=201, openapi_extra=schema_of(Submission))
    def publish(
        by: ByPublisher,
        submission: Annotated[Submission, Depends(body_of(Submission, MAX_SUBMISSION_BYTES))],
    ) -> dict[str, Any]:
        """Make bundles installable, after checking the publisher's signature and every file."""
        roots = [root.encode() for root in submission.roots]
        published = repository.submit(roots, submission.targets.encode(), by=by)
        return {"published": [summary(bundle) for bundle in published]}

    @router.get("", dependencies=[Viewer])
    def bundles(
        model: Text = "",
        cursor: Row = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, Any]:
        """Return published bundles, the newest first."""
        rows = repository.bundles(model=model, before=cursor, limit=limit + 1)
        return paging.document(rows, limit, lambda bundle: bundle.number, summary)

    @router.get("/{model}/{version}", dependencies=[Viewer])
    def bundle(model: str, version: str) -> dict[str, Any]:
        """Return one bundle with its manifest."""
        published = repository.bundle(model, version)
        if published is None:
            raise HTTPException(404, f"no bundle {model[:80]} {version[:80]} is published")
        return {**summary(published), "manifest": msgspec.to_builtins(published.manifest)}

    return router


def summary(bundle: Published) -> dict[str, Any]:
    """Return what lists and the user interface show of a bundle."""
    return {
        "model": bundle.model,
        "version": bundle.version,
        "task": bundle.manifest.task,
        "sha256": bundle.sha256,
        "bytes": bundle.total_bytes,
        "published_unix_ms": bundle.published_ms,
        "variants": [
            {"id": v.id, "backend": v.backend, "accelerator": v.accelerator, "precision": v.precision}
            for v in bundle.manifest.variants
        ],
    }


async def _receive(request: Request, entry: Upload) -> None:
    """Write a request's body to disk, in pieces and off the event loop."""
    waiting = bytearray()
    try:
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= _BUFFER_BYTES:
                await run_in_threadpool(entry.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(entry.write, bytes(waiting))
        await run_in_threadpool(entry.finish)
    finally:
        await run_in_threadpool(entry.abandon)


def _file(blobs: Blobs, sha256: str, media_type: str) -> FileResponse:
    if not SHA256.fullmatch(sha256) or blobs.size(sha256) is None:
        raise HTTPException(404, f"no file {sha256[:80]!r}")
    headers = {**_FOREVER, "ETag": f'"{sha256}"'}
    return FileResponse(blobs.path(sha256), media_type=media_type, headers=headers)
