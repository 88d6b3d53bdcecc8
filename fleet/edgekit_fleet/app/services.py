"""The parts of one fleet manager, put together in ``compose`` and handed to the application's routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from edgekit_fleet.app.certificates import CertificateKeeper
from edgekit_fleet.app.rates import Rates
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.cameras.service import CameraService
from edgekit_fleet.identity.authority import Authority
from edgekit_fleet.identity.enrol import Enrolment
from edgekit_fleet.ingest.intake import Intake
from edgekit_fleet.ingest.ports import Hooks
from edgekit_fleet.measuring.service import MeasuringService
from edgekit_fleet.registry.service import RegistryService
from edgekit_fleet.rollout.service import RolloutService
from edgekit_fleet.store.audit import Audit
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.facts import Facts
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.store.metrics import Metrics
from edgekit_fleet.store.tokens import Tokens
from edgekit_fleet.web.bus import Bus
from edgekit_fleet.web.health import Health


@dataclass(frozen=True)
class Settings:
    """How this fleet manager was started.

    Args:
        data: Its data folder; everything it keeps is below it.
        url: Where devices and people reach it, without a slash at the end.
        broker_url: Where devices reach the broker: ``mqtts://host:port`` or ``mqtt://host:port``.
        is_loopback: Whether only this machine can reach it.
    """

    data: Path
    url: str
    broker_url: str
    is_loopback: bool

    @property
    def metadata_url(self) -> str:
        """Where devices fetch TUF metadata."""
        return f"{self.url}/tuf/metadata"

    @property
    def targets_url(self) -> str:
        """Where devices fetch targets and, below ``blobs/``, files by hash."""
        return f"{self.url}/tuf/targets"


@dataclass
class Services:
    """Every part of one fleet manager."""

    settings: Settings
    database: Database
    identity: Authority
    downlink: Downlink
    hooks: Hooks
    devices: Devices
    messages: Messages
    metrics: Metrics
    rates: Rates
    tokens: Tokens
    enrolment: Enrolment
    commanding: Commanding
    bus: Bus
    health: Callable[[], Health]
    facts: Facts
    certificates: CertificateKeeper
    warnings: Callable[[], list[str]]
    strangers: Callable[[], dict[str, int]]
    registry: RegistryService
    rollouts: RolloutService
    measuring: MeasuringService
    cameras: CameraService
    audit: Audit
    intake: Intake | None = None
    """Set once it is made of the other parts."""


def services_of(request: Request) -> Services:
    """Return the fleet's parts (dependency of the application's own routes)."""
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(services_of)]
