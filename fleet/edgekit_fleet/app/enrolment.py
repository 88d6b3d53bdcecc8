"""Routes that a device uses before it is enrolled: the CA, and enrolment."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from edgekit.core import wire
from edgekit.core.errors import EnrollError
from edgekit_fleet.app.moving import moves_to
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.web.throttle import address_of, throttle_of

router = APIRouter(tags=["enrolment"])


@router.get("/ca", response_class=Response, responses={200: {"content": {"application/x-pem-file": {}}}})
def ca(parts: Parts) -> Response:
    """Return the fleet's CA certificate; its SHA-256 is the fourth part of an enrolment token."""
    return Response(parts.identity.certificate_pem, media_type="application/x-pem-file")


@router.post(
    "/enroll",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["token", "csr"],
                        "properties": {
                            "token": {"type": "string"},
                            "csr": {"type": "string", "description": "PEM, signed by the device's P-256 key"},
                            "name": {"type": "string"},
                            "hardware": {"type": "object"},
                        },
                    }
                }
            },
        }
    },
)
async def enroll(request: Request, parts: Parts) -> Response:
    """Enrol a device with a claim and a signing request; the same key gets the same answer again."""
    enrolment = wire.decode(await request.body(), wire.EnrollRequest)
    throttle, address = throttle_of(request), address_of(request)
    throttle.admit(address, enrolment.token)
    try:
        answer = await asyncio.to_thread(_enroll, parts, enrolment, address)
    except EnrollError:
        throttle.refuse(address, "enrolment")
        raise
    return Response(wire.encode(answer), media_type="application/json")


def _enroll(parts: Services, request: wire.EnrollRequest, address: str = "") -> wire.EnrollResponse:
    trust = parts.registry.trust()
    if not trust.root:  # before the claim is used and the name is taken
        raise EnrollError(
            "this fleet has no publisher yet, so a device could never trust an update",
            hint="edgekit-fleet keys init --keys DIR --fleet URL --token T, then enrol again",
        )
    device, certificate, is_new = parts.enrolment.enroll(request, unix_ms(), address)
    if is_new:
        if (addresses := moves_to(parts)) is not None:
            parts.rollouts.desired.tell([device], addresses)
        parts.cameras.enrolled(device)
        parts.bus.publish("device", {"device": device, "enrolled": True})
    return wire.EnrollResponse(
        device=device,
        certificate=certificate,
        ca=parts.identity.certificate_pem,
        broker_url=parts.settings.broker_url,
        metadata_url=parts.settings.metadata_url,
        targets_url=parts.settings.targets_url,
        root=trust.root,
        desired_keys=trust.desired_keys,
    )
