"""What the parts of the fleet manager hand to one another; composed once, in ``compose.py``.

Who else wants to hear or to be asked registers in ``Hooks``; a part is attached by its
``attach(services)`` (``edgekit_fleet.registry.service``, ``edgekit_fleet.rollout.service``,
``edgekit_fleet.measuring.service``) before the broker starts, and adds its routes to ``hooks.routers``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.core import wire

if TYPE_CHECKING:
    from fastapi import APIRouter

    from edgekit_fleet.bus import Bus
    from edgekit_fleet.commanding import Commanding
    from edgekit_fleet.identity.authority import Authority
    from edgekit_fleet.identity.enrol import Enrolment
    from edgekit_fleet.store.database import Database
    from edgekit_fleet.store.devices import Devices
    from edgekit_fleet.store.messages import Messages
    from edgekit_fleet.store.metrics import Metrics
    from edgekit_fleet.store.tokens import Tokens


@dataclass(frozen=True)
class Settings:
    """How this fleet manager was started.

    Args:
        data: Its folder; everything it keeps lies below.
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


@dataclass(frozen=True)
class Trust:
    """The roots of trust that an enrolling device is given.

    Args:
        root: TUF root metadata, JSON text.
        desired_keys: Public keys of desired states, hexadecimal, by key id.
    """

    root: str
    desired_keys: dict[str, str]


class Downlink(Protocol):
    """The way down to devices; any thread may call it, and it does not wait."""

    def publish(self, device: str, leaf: str, body: bytes, *, retain: bool = False) -> None:
        """Send ``body`` on a device's ``down/<leaf>``; ``desired`` and ``cmd`` at QoS 1, else 0.

        While the broker is away messages are dropped and counted: at each connection
        ``Hooks.on_downlink`` asks for the retained documents again, commands are sent again anyway,
        and devices ask again for the rest.
        """


Answer = wire.Response | wire.Chunk | None


@dataclass(frozen=True)
class Health:
    """How the fleet manager fares.

    Args:
        is_connected: Whether the broker is there.
        is_ingesting: Whether what devices send is taken.
        broker_restarts: How often the embedded broker ended by itself and was started again.
        counters: What ingest counted since the start: messages, records (new ones), repeated,
            refused, requests, expired, store_failures, hook_failures, downlink_dropped, connections_refused.
    """

    is_connected: bool
    is_ingesting: bool
    broker_restarts: int
    counters: dict[str, int]


@dataclass
class Hooks:
    """Who is told what, in the order of registration. A hook should not raise: it is logged and counted.

    ``on_committed`` runs after the commit and before the broker's acknowledgement, on the ingest
    thread: (device, records). After a crash the last ones may be told again never, or once only:
    what must not be missed is read from the store at start.

    ``on_state`` runs when a birth or a will was taken over: (device, birth).
    ``on_reported``: (device, reported). ``on_enrolled``: (device). ``on_downlink``: the connection
    to the broker stands (again); retained documents should be published again.
    ``requests`` answers ``up/req`` by kind; ``time`` and ``renew`` are the fleet's own.
    ``trust`` gives enrolling devices their roots.
    """

    on_committed: list[Callable[[str, Sequence[wire.Record]], None]] = field(default_factory=list)
    on_state: list[Callable[[str, wire.Birth], None]] = field(default_factory=list)
    on_reported: list[Callable[[str, wire.Reported], None]] = field(default_factory=list)
    on_enrolled: list[Callable[[str], None]] = field(default_factory=list)
    on_downlink: list[Callable[[], None]] = field(default_factory=list)
    requests: dict[str, Callable[[str, wire.Request], Answer]] = field(default_factory=dict)
    trust: Callable[[], Trust] = lambda: Trust(root="", desired_keys={})
    routers: list[APIRouter] = field(default_factory=list)
    on_stop: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Services:
    """The parts, as everyone sees them.

    ``bus`` carries what changed to whoever watches (``GET /api/v1/stream``):
    ``bus.publish("rollout", {...})``. ``parts`` holds what each part's ``attach`` returned, by its
    module's name: ``parts["edgekit_fleet.registry.service"]``.
    """

    settings: Settings
    database: Database
    identity: Authority
    downlink: Downlink
    hooks: Hooks
    devices: Devices
    messages: Messages
    metrics: Metrics
    tokens: Tokens
    enrolment: Enrolment
    commanding: Commanding
    bus: Bus
    health: Callable[[], Health]
    parts: dict[str, Any] = field(default_factory=dict)
