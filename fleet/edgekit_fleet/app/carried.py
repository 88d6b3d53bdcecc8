"""The route that takes in the outbox of a device without a link, which an operator brings in a file."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from edgekit.core import wire
from edgekit.core.errors import SignatureError
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.identity.authority import read_carried
from edgekit_fleet.ingest.intake import Message
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.web.auth import ByOperator
from edgekit_fleet.web.bodies import read_body

router = APIRouter(tags=["devices"])
LONG_BODIES = ("/api/v1/outboxes",)
"""Paths whose routes read long bodies, once they know that an operator sends them."""
_SIGNED = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/outboxes", openapi_extra=_SIGNED)
async def take_in(request: Request, parts: Parts, by: ByOperator) -> Response:
    """Store one part of a carried outbox and return the signed watermark, to be carried back.

    The same part again changes nothing and gets the watermark again.
    """
    part = wire.decode(await read_body(request, wire.MAX_MESSAGE_BYTES), wire.SignedPart)
    ack = await asyncio.to_thread(_take_in, parts, part)
    parts.audit.record(by, "outbox.import", ack.device, after={"boot": ack.boot, "watermark": ack.watermark})
    return Response(parts.rollouts.desired.sign_ack(ack), media_type="application/json")


def _take_in(parts: Services, part: wire.SignedPart) -> wire.CarriedAck:
    carried, serial = read_carried(part, parts.identity.certificate_pem)
    device = carried.device
    if not parts.devices.known([device]) or parts.devices.is_barred(serial):
        raise SignatureError(f"device '{device}' is not enrolled here, or is revoked")
    batch = wire.decode(carried.batch, wire.RawBatch)
    # What the device's clock said when it wrote the file: the way here must not age its messages.
    arrived_ms = min(unix_ms(), batch.sent_unix_ms) if batch.sent_unix_ms > 0 else unix_ms()
    assert parts.intake is not None
    parts.intake.take([Message(wire.up(device, carried.leaf), carried.batch, arrived_ms)], is_carried=True)
    return wire.CarriedAck(device, batch.boot, parts.messages.watermark(device, batch.boot))
