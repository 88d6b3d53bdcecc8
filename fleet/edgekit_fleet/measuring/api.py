"""Measurement jobs and costs over HTTP."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from edgekit_fleet.app.auth import Operator, Parts, Viewer
from edgekit_fleet.commanding import MAX_EXPIRES_S
from edgekit_fleet.ingest.intake import now_ms
from edgekit_fleet.measuring.costs import MAX_PAGE
from edgekit_fleet.measuring.jobs import Job, Jobs, Wanted
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.registry.trust import Target
from edgekit_fleet.services import Services

EXPIRES_S = 900
MAX_CONTENTS = 100
_SHA256 = "[0-9a-f]{64}"


class NewMeasurement(BaseModel):
    """A job to give to a device.

    ``sha256`` is of the bundle's manifest; without it the version that devices may install is meant,
    or else the newest that is published for measuring. ``threads`` 0: the device's own choice.
    """

    model_config = ConfigDict(extra="forbid")

    device: str
    model: str
    version: str
    sha256: Annotated[str, Field(pattern=f"^({_SHA256})?$")] = ""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    seconds: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    expires_s: Annotated[int, Field(ge=1, le=MAX_EXPIRES_S)] = EXPIRES_S


def router(jobs: Jobs, repository: Repository) -> APIRouter:
    """Return the routes about measurements."""
    routes = APIRouter(prefix="/api/v1", tags=["measuring"])

    @routes.post("/measurements", status_code=202, dependencies=[Operator])
    def create(parts: Parts, wanted: NewMeasurement) -> dict[str, Any]:
        """Have a device measure a signed bundle beside what it runs; the bundle is never activated.

        The same job again, while it is not over, is the job that there is.
        """
        target = _target(repository, wanted)
        _check_device(parts, wanted.device)
        now = now_ms()
        open_job = jobs.open_on(wanted.device, now)
        if open_job is not None:
            asked = (target.sha256, wanted.threads, wanted.seconds)
            if (open_job.sha256, open_job.threads, open_job.seconds) == asked:
                return detail(parts, open_job)
            raise HTTPException(409, f"'{wanted.device}' has another job, {open_job.id}, until it is over")
        with parts.database.transaction():
            job = jobs.create(
                Wanted(wanted.device, target, wanted.threads, wanted.seconds),
                now,
                now + wanted.expires_s * 1000,
            )
            command = parts.commanding.command(wanted.device, "measure", job.arguments(), wanted.expires_s)
            jobs.sent(job.id, command.id)
        return detail(parts, job)

    @routes.get("/measurements", dependencies=[Viewer])
    def measurements(
        parts: Parts,
        device: str = "",
        cursor: int | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, Any]:
        """Return measurement jobs, the newest first, without their results."""
        found = jobs.page(now_ms(), device=device, before=cursor, limit=limit + 1)
        more = str(found[limit - 1].number) if len(found) > limit else None
        return {"items": [detail(parts, one, has_result=False) for one in found[:limit]], "next": more}

    @routes.get("/measurements/{job}", dependencies=[Viewer])
    def measurement(parts: Parts, job: str) -> dict[str, Any]:
        """Return one job: waiting, running, postponed, done, failed or expired; and its result."""
        found = jobs.get(job, now_ms())
        if found is None:
            raise HTTPException(404, f"There is no measurement {job[:64]!r}")
        return detail(parts, found)

    @routes.get("/costs", dependencies=[Viewer])
    def costs(
        model: str = "",
        version: str = "",
        profile: str = "",
        content: Annotated[list[str] | None, Query(max_length=MAX_CONTENTS)] = None,
        cursor: int | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    ) -> dict[str, Any]:
        """Return what variants cost on each kind of board: medians over the devices that measured."""
        found = jobs.costs.page(
            model=model,
            version=version,
            profile=profile,
            contents=content or (),
            before=cursor,
            limit=limit + 1,
        )
        more = str(found[limit - 1].number) if len(found) > limit else None
        items = [dataclasses.asdict(one) for one in found[:limit]]
        for item in items:
            del item["number"]
        return {"items": items, "next": more}

    return routes


def detail(parts: Services, job: Job, *, has_result: bool = True) -> dict[str, Any]:
    """Return what is told of a job."""
    device = parts.devices.get(job.device)
    document = {
        "id": job.id,
        "device": job.device,
        "online": device is not None and device.online,
        "model": job.model,
        "version": job.version,
        "sha256": job.sha256,
        "target": job.target,
        "threads": job.threads,
        "seconds": job.seconds,
        "state": job.state,
        "code": job.code,
        "reason": job.reason,
        "created_unix_ms": job.created_ms,
        "expires_unix_ms": job.expires_ms,
        "settled_unix_ms": job.settled_ms,
    }
    return {**document, "result": job.result} if has_result else document


def _target(repository: Repository, wanted: NewMeasurement) -> Target:
    found = repository.bundle(wanted.model, wanted.version)
    if found is None or wanted.sha256 not in ("", found.sha256):
        found = repository.measured_bundle(wanted.model, wanted.version, wanted.sha256)
    if found is None:
        what = f"{wanted.model[:64]} {wanted.version[:32]} {wanted.sha256[:12]}".rstrip()
        raise HTTPException(404, f"{what} is not published: edgekit-fleet publish --measure")
    return found.target


def _check_device(parts: Services, device: str) -> None:
    found = parts.devices.get(device)
    if found is None:
        raise HTTPException(404, f"There is no device '{device[:64]}'")
    if found.state == "revoked":
        raise HTTPException(409, f"Device '{device[:64]}' is revoked")
