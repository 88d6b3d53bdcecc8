"""Measuring as the fleet manager runs it: stores what devices measured, serves jobs and costs."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core import wire
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.ingest.ports import Hooks
from edgekit_fleet.measuring import api
from edgekit_fleet.measuring.jobs import Jobs
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.web.bus import Bus

TICK_S = 30.0
"""Records wake the ticker; the interval is for those that an earlier process committed."""


class MeasuringService:
    """Serves measurement jobs and costs until it is stopped.

    Args:
        database: The fleet's database.
        devices: The fleet's devices.
        repository: Finds the bundles to measure.
        commanding: Sends jobs to devices.
        bus: Gets a change for every job that changed.
        hooks: Where ingest reports what devices sent.

    Raises:
        StorageError: The database cannot be written.
    """

    def __init__(
        self,
        database: Database,
        devices: Devices,
        repository: Repository,
        *,
        commanding: Commanding,
        bus: Bus,
        hooks: Hooks,
    ) -> None:
        self.jobs, self._bus = Jobs(database), bus
        office = api.Office(database, devices, repository, commanding, self.jobs)
        self.routers = (api.measurements_router(office), api.costs_router(self.jobs.costs))
        self._ticker = Ticker("measurements", TICK_S, self._take_records)
        hooks.on_committed.append(self._committed)
        self._ticker.start()

    def stop(self) -> None:
        """End the work in the background; safe twice."""
        self._ticker.stop()

    def _take_records(self) -> None:
        while self.jobs.is_behind:
            for job in self.jobs.take_records(unix_ms()):
                self._bus.publish("measurement", {"id": job})

    def _committed(self, _device: str, records: Sequence[wire.Record]) -> None:
        if any(isinstance(record, (wire.MeasurementRecord, wire.CommandAnswer)) for record in records):
            self._ticker.wake()
