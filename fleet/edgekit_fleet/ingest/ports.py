"""What ingest needs of the fleet manager, and what others can hook into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.core import wire
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.messages import Messages
from edgekit_fleet.web.bus import Bus

Answer = wire.Response | wire.Chunk | None


@dataclass
class Hooks:
    """Functions that ingest calls, in the order of registration.

    A hook should not raise: an exception is logged and counted, and the next hook runs.

    Args:
        in_commit: (device, records), inside the transaction that stores a device's new records, where a
            record of the hook's kind is among them: what it writes to the database is committed with them
            or not at all. It does nothing else.
        on_committed: (device, records), after the commit and before the broker's acknowledgement, on
            the ingest thread. After a crash the last records may be passed again or never: what must
            not be missed is read from the store at the start.
        on_state: (device, birth), after a birth or a last will was stored.
        on_reported: (device, reported state), after it was stored.
        requests: Answers ``up/req`` by the request's kind.
    """

    in_commit: list[tuple[type, Callable[[str, Sequence[wire.Record]], None]]] = field(default_factory=list)
    on_committed: list[Callable[[str, Sequence[wire.Record]], None]] = field(default_factory=list)
    on_state: list[Callable[[str, wire.Birth], None]] = field(default_factory=list)
    on_reported: list[Callable[[str, wire.Reported], None]] = field(default_factory=list)
    requests: dict[str, Callable[[str, wire.Request], Answer]] = field(default_factory=dict)


class Parts(Protocol):
    """The parts of the fleet manager that ingest uses."""

    database: Database
    devices: Devices
    messages: Messages
    hooks: Hooks
    downlink: Downlink
    bus: Bus
