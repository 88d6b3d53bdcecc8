"""Routes about cameras: lists by device and label, passwords that only go in, what a device fetches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from edgekit.core import wire
from edgekit.core.cameras import FETCH_PATH, MAX_CAMERAS, MAX_PASSWORD, Camera, CameraState
from edgekit.core.errors import ProtocolError, SignatureError
from edgekit_fleet.app.options import is_loopback
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.identity.authority import read_camera_request
from edgekit_fleet.store.cameras import Scope, StoredList, Target
from edgekit_fleet.web.auth import ByOperator, Viewer
from edgekit_fleet.web.paging import page_of
from edgekit_fleet.web.queries import Text
from edgekit_fleet.web.throttle import address_of, throttle_of

router = APIRouter(tags=["cameras"])
Value = Annotated[str, Field(max_length=1000)] | bool | int | float


class NewCamera(BaseModel):
    """A camera: its name, the kind of its source, its address, and further keys of the source."""

    name: str = Field(max_length=64)
    kind: str = Field(max_length=64)
    uri: str = Field(max_length=1000)
    options: dict[Annotated[str, Field(max_length=64)], Value] = Field(default_factory=dict, max_length=32)


class NewList(BaseModel):
    """A whole list, in the place of the one before."""

    cameras: list[NewCamera] = Field(max_length=MAX_CAMERAS)


class NewPassword(BaseModel):
    """A camera's password; no route gives it back."""

    password: str = Field(max_length=MAX_PASSWORD)


class NewLabels(BaseModel):
    """All labels of a device, in the place of those before."""

    labels: list[Annotated[str, Field(max_length=64)]] = Field(max_length=100)


@dataclass(frozen=True)
class ListedCamera:
    """A camera without its password; ``password_unix_ms`` is when that was set, 0 where it has none."""

    name: str
    kind: str
    uri: str
    options: dict[str, Any]
    password_unix_ms: int


@dataclass(frozen=True)
class Listed:
    """The list of one device or label."""

    scope: Scope
    name: str
    cameras: list[ListedCamera]
    changed_ms: int


@dataclass(frozen=True)
class Lists:
    """Lists in order; ``next`` is the cursor of further ones."""

    items: list[Listed]
    next: str | None


@dataclass(frozen=True)
class DeviceCameras:
    """A device's cameras, those of its labels included, and whether it has taken them.

    ``in_force``: the device has reported the list that its desired state names. ``problem`` is the device's.
    """

    labels: list[str]
    cameras: list[ListedCamera]
    in_force: bool
    reported: list[str]
    problem: str


@router.get("/cameras", dependencies=[Viewer])
def lists(
    parts: Parts,
    after: Annotated[Text, Query(description="Cursor: `next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Lists:
    """List the camera lists of devices and labels."""
    scope, _, name = after.partition("/")
    cursor = Target("device" if scope == "device" else "label", name) if after else None
    rows, following = page_of(parts.cameras.store.page(cursor, limit + 1), limit, _cursor)
    return Lists([_listed(row) for row in rows], following)


@router.get("/cameras/{scope}/{name}", dependencies=[Viewer])
def show(parts: Parts, scope: Scope, name: str) -> Listed:
    """Show the list of a device or label."""
    return _listed(_known(parts, Target(scope, name)))


@router.put("/cameras/{scope}/{name}")
def replace(parts: Parts, by: ByOperator, scope: Scope, name: str, new: NewList) -> Listed:
    """Replace a list; a camera whose kind or host changes loses its password."""
    if scope == "device":
        _device(parts, name)
    cameras = [Camera(**camera.model_dump()) for camera in new.cameras]
    return _listed(parts.cameras.set_list(Target(scope, name), cameras, by=by))


@router.delete("/cameras/{scope}/{name}", status_code=204)
def delete(parts: Parts, by: ByOperator, scope: Scope, name: str) -> None:
    """Delete a list with its passwords."""
    if not parts.cameras.delete(target := Target(scope, name), by=by):
        raise HTTPException(404, f"There is no camera list of {str(target)[:100]}")


@router.put("/cameras/{scope}/{name}/passwords/{camera}")
def set_password(
    parts: Parts, by: ByOperator, scope: Scope, name: str, camera: str, new: NewPassword
) -> Listed:
    """Set a camera's password; only the devices concerned can fetch it."""
    _known(parts, target := Target(scope, name))
    return _listed(parts.cameras.set_password(target, camera, new.password, by=by))


@router.delete("/cameras/{scope}/{name}/passwords/{camera}")
def delete_password(parts: Parts, by: ByOperator, scope: Scope, name: str, camera: str) -> Listed:
    """Delete a camera's password."""
    _known(parts, target := Target(scope, name))
    return _listed(parts.cameras.set_password(target, camera, None, by=by))


@router.get("/devices/{device}/cameras", dependencies=[Viewer])
def of_device(parts: Parts, device: str) -> DeviceCameras:
    """Show a device's cameras, and whether the device has taken them."""
    _device(parts, device)
    wanted = parts.cameras.wanted_sha256(device)
    reported = parts.devices.reported(device)
    state = reported.cameras if reported else CameraState()
    return DeviceCameras(
        labels=list(parts.cameras.store.labels(device)),
        cameras=_without_passwords(parts.cameras.effective(device)),
        in_force=wanted == state.sha256,
        reported=list(state.names),
        problem=state.problem,
    )


@router.put("/devices/{device}/labels")
def set_labels(parts: Parts, by: ByOperator, device: str, new: NewLabels) -> DeviceCameras:
    """Replace a device's labels, and so the lists that it gets."""
    _device(parts, device)
    parts.cameras.set_labels(device, new.labels, by=by)
    return of_device(parts, device)


@router.post(FETCH_PATH.removeprefix("/api/v1"), include_in_schema=False)
async def fetch(request: Request, parts: Parts) -> Response:
    """Give a device its list with the passwords, if its own key has signed the request."""
    if request.url.scheme != "https" and not is_loopback(request.client.host if request.client else ""):
        raise HTTPException(403, "Passwords are sent over TLS only: start the fleet manager with --tls on")
    throttle, address = throttle_of(request), address_of(request)
    throttle.admit(address, "cameras")
    try:
        part = wire.decode(await request.body(), wire.SignedPart)
        signed, serial = await asyncio.to_thread(read_camera_request, part, parts.identity.certificate_pem)
    except (SignatureError, ProtocolError) as cause:
        throttle.refuse(address, "cameras")
        raise HTTPException(401, "A device of this fleet must sign this request") from cause
    if not parts.devices.known([signed.device]) or parts.devices.is_barred(serial):
        raise HTTPException(403, f"Device '{signed.device}' is not enrolled here, or is revoked")
    document = await asyncio.to_thread(parts.cameras.document, signed.device)
    return Response(document, media_type="application/json", headers={"Cache-Control": "no-store"})


def _listed(stored: StoredList) -> Listed:
    return Listed(
        stored.target.scope, stored.target.name, _without_passwords(stored.cameras), stored.changed_ms
    )


def _without_passwords(cameras: Sequence[Camera]) -> list[ListedCamera]:
    return [ListedCamera(**msgspec.structs.asdict(camera)) for camera in cameras]


def _cursor(stored: StoredList) -> str:
    return f"{stored.target.scope}/{stored.target.name}"


def _known(parts: Services, target: Target) -> StoredList:
    stored = parts.cameras.store.get(target)
    if stored is None:
        raise HTTPException(404, f"There is no camera list of {str(target)[:100]}")
    return stored


def _device(parts: Services, device: str) -> None:
    if not parts.devices.exists(device):
        raise HTTPException(404, f"There is no device '{device[:64]}'")
