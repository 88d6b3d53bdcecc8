"""Routes about who belongs to the fleet: delete a device, take back one that a restore has forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, HTTPException, Response

from edgekit_fleet.app.services import Parts
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.devices import Device
from edgekit_fleet.web.auth import ByAdmin, Viewer

router = APIRouter(tags=["devices"])


@dataclass(frozen=True)
class Stranger:
    """A device with a certificate of this fleet that its database does not know."""

    device: str
    refused_ms: int


@router.delete("/devices/{device}", status_code=204)
def delete(parts: Parts, by: ByAdmin, device: str) -> None:
    """Forget a device, close its connection and bar its certificates; its name is free then."""
    if not parts.enrolment.delete(device, unix_ms(), by=by):
        raise HTTPException(404, f"There is no device '{device[:64]}'")
    parts.cameras.forget(device, by=by)
    parts.rollouts.engine.forget(device)
    parts.bus.publish("device", {"device": device, "deleted": True})


@router.get(
    "/crl",
    dependencies=[Viewer],
    response_class=Response,
    responses={200: {"content": {"application/x-pem-file": {}}}},
)
def crl(parts: Parts) -> Response:
    """Return the list of revoked certificates, for a broker that is not the embedded one."""
    serials = parts.devices.revoked_serials(unix_ms())
    return Response(parts.identity.revocation_list(serials), media_type="application/x-pem-file")


@router.get("/strangers", dependencies=[Viewer])
def strangers(parts: Parts) -> list[Stranger]:
    """List devices that were refused in the last hour, though their certificate is of this fleet."""
    return [Stranger(device, at_ms) for device, at_ms in sorted(parts.strangers().items())]


@router.post("/strangers/{device}/adopt")
def adopt(parts: Parts, by: ByAdmin, device: str) -> Device:
    """Take back a device that was enrolled after the backup that was restored."""
    if device not in parts.strangers():
        raise HTTPException(404, f"No device '{device[:64]}' was refused in the last hour")
    parts.enrolment.adopt(device, unix_ms(), by=by)
    known = parts.devices.get(device)
    assert known is not None
    return known
