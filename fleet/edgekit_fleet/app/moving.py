"""Routes about moving the fleet manager to another address: devices are told before, and enrol only once."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field

from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit_fleet.app.services import Parts, Services
from edgekit_fleet.store.facts import MOVES_TO
from edgekit_fleet.web.auth import ByAdmin, Viewer

router = APIRouter(tags=["moving"])


class Destination(BaseModel):
    """Where the fleet manager is going to be."""

    url: str = Field(pattern=r"^https?://[^/\s]+$", max_length=300)
    broker_url: str = Field(pattern=r"^mqtts?://[^/\s]+$", max_length=300)


@dataclass(frozen=True)
class Move:
    """Who has been told; a device has accepted when its newest document is in force there.

    ``url`` and ``broker_url`` are empty where no move was announced.
    """

    url: str
    broker_url: str
    devices: int
    accepted: int


@router.get("/move", dependencies=[Viewer])
def progress(parts: Parts) -> Move:
    """Show whether every device knows where the fleet manager is going to be."""
    told = moves_to(parts)
    url, broker_url = (told.fleet_url, told.broker_url) if told else ("", "")
    accepted = parts.rollouts.desired.accepted() if told else 0
    return Move(url, broker_url, len(parts.devices.approved()), accepted)


@router.post("/move")
def move(parts: Parts, by: ByAdmin, to: Destination) -> Move:
    """Tell every device where the fleet manager is going to be; they go on here until it is there."""
    for new, present in ((to.url, parts.settings.url), (to.broker_url, parts.settings.broker_url)):
        if new.partition(":")[0] != present.partition(":")[0]:
            raise UsageError(f"{new}: want the scheme of {present}", hint="keep TLS as it is")
    tuf = f"{to.url}/tuf"
    addresses = wire.Addresses(to.url, to.broker_url, f"{tuf}/metadata", f"{tuf}/targets")
    with parts.database.transaction():
        parts.facts.set(MOVES_TO, msgspec.json.encode(addresses).decode())
        parts.audit.record(by, "fleet.move", to.url, before=parts.settings.url, after=to.url)
    parts.rollouts.desired.tell(parts.devices.approved(), addresses)
    return progress(parts)


def moves_to(parts: Services) -> wire.Addresses | None:
    """Return where the fleet manager is going to be, if that was announced."""
    told = parts.facts.get(MOVES_TO)
    return msgspec.json.decode(told, type=wire.Addresses) if told else None
