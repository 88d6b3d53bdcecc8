"""Measurement jobs and costs over HTTP."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from edgekit_fleet.broker.commanding import MAX_EXPIRES_S, Commanding
from edgekit_fleet.measuring.costs import BoardCost, Costs
from edgekit_fleet.measuring.jobs import Job, Jobs, Request
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.registry.trust import Target
from edgekit_fleet.store.audit import Actor
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.costs import MAX_PAGE
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.web import paging
from edgekit_fleet.web.auth import ByOperatorOrPublisher, Viewer
from edgekit_fleet.web.queries import Row, Text

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


@dataclass(frozen=True)
class Office:
    """Gives jobs to devices.

    Args:
        database: One transaction records a job and its command.
        devices: The fleet's devices.
        repository: Finds the bundles to measure.
        commanding: Sends jobs to devices.
        jobs: The jobs given so far.
    """

    database: Database
    devices: Devices
    repository: Repository
    commanding: Commanding
    jobs: Jobs

    def give(self, new: NewMeasurement, by: Actor) -> Job:
        """Return a new job, or the open one of the device if it is the same.

        Raises:
            HTTPException: The bundle or the device is not known (404), or the device is revoked or has
                another job (409).
        """
        target = self._target(new)
        self._check_device(new.device)
        now_ms = unix_ms()
        open_job = self.jobs.open_on(new.device, now_ms)
        if open_job is not None:
            asked = (target.sha256, new.threads, new.seconds)
            if (open_job.sha256, open_job.threads, open_job.seconds) == asked:
                return open_job
            raise HTTPException(409, f"'{new.device}' has another job, {open_job.id}, until it is over")
        with self.database.transaction():
            job = self.jobs.create(
                Request(new.device, target, new.threads, new.seconds),
                now_ms,
                now_ms + new.expires_s * 1000,
            )
            command = self.commanding.command(new.device, "measure", job.arguments(), new.expires_s, by=by)
            self.jobs.sent(job.id, command.id)
        return job

    def _target(self, new: NewMeasurement) -> Target:
        bundle = self.repository.bundle(new.model, new.version)
        if bundle is None or new.sha256 not in ("", bundle.sha256):
            bundle = self.repository.measured_bundle(new.model, new.version, new.sha256)
        if bundle is None:
            name = f"{new.model[:64]} {new.version[:32]} {new.sha256[:12]}".rstrip()
            raise HTTPException(404, f"{name} is not published: edgekit-fleet publish --measure")
        return bundle.target

    def _check_device(self, name: str) -> None:
        device = self.devices.get(name)
        if device is None:
            raise HTTPException(404, f"There is no device '{name[:64]}'")
        if device.state == "revoked":
            raise HTTPException(409, f"Device '{name[:64]}' is revoked")


def measurements_router(office: Office) -> APIRouter:
    """Return the routes about measurement jobs."""
    routes = APIRouter(prefix="/api/v1", tags=["measuring"])
    jobs = office.jobs

    @routes.post("/measurements", status_code=202)
    def create(by: ByOperatorOrPublisher, new: NewMeasurement) -> dict[str, Any]:
        """Have a device measure a signed bundle beside what it runs; the bundle is never activated.

        Asking for the job that the device has open returns that job.
        """
        return detail(office.devices, office.give(new, by))

    @routes.get("/measurements", dependencies=[Viewer])
    def measurements(
        device: Text = "", cursor: Row = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> dict[str, Any]:
        """Return measurement jobs, the newest first, without their results."""
        rows = jobs.page(unix_ms(), device=device, before=cursor, limit=limit + 1)
        return paging.document(
            rows, limit, lambda job: job.number, lambda job: detail(office.devices, job, has_result=False)
        )

    @routes.get("/measurements/{job}", dependencies=[Viewer])
    def measurement(job: str) -> dict[str, Any]:
        """Return one job: waiting, running, postponed, done, failed or expired; and its result."""
        row = jobs.get(job, unix_ms())
        if row is None:
            raise HTTPException(404, f"There is no measurement {job[:64]!r}")
        return detail(office.devices, row)

    return routes


def costs_router(board_costs: Costs) -> APIRouter:
    """Return the route about what variants cost."""
    routes = APIRouter(prefix="/api/v1", tags=["measuring"])

    @routes.get("/costs", dependencies=[Viewer])
    def costs(
        model: Text = "",
        version: Text = "",
        profile: Text = "",
        content: Annotated[list[Text] | None, Query(max_length=MAX_CONTENTS)] = None,
        cursor: Row = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    ) -> dict[str, Any]:
        """Return what variants cost on each kind of board: medians over the devices that measured."""
        rows = board_costs.page(
            model=model,
            version=version,
            profile=profile,
            contents=content or (),
            before=cursor,
            limit=limit + 1,
        )
        return paging.document(rows, limit, lambda cost: cost.number, _cost)

    return routes


def _cost(cost: BoardCost) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(cost).items() if name != "number"}


def detail(devices: Devices, job: Job, *, has_result: bool = True) -> dict[str, Any]:
    """Return a job as the API shows it."""
    device = devices.get(job.device)
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
