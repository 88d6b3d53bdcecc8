"""Attaches measuring to the fleet manager: what devices measured is taken in, jobs are served."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core import wire
from edgekit_fleet.ingest.intake import now_ms
from edgekit_fleet.measuring import api
from edgekit_fleet.measuring.jobs import Jobs
from edgekit_fleet.registry import service as registry
from edgekit_fleet.registry.repository import Repository
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.services import Services

TICK_S = 30.0
"""Records wake it; this is for those of a life before."""


def attach(services: Services) -> Jobs:
    """Serve measurement jobs and costs until the fleet manager stops.

    Raises:
        StorageError: The database cannot be written.
    """
    jobs = Jobs(services.database)
    repository: Repository = services.parts[registry.__name__]

    def take() -> None:
        while jobs.is_behind:
            for job in jobs.take_records(now_ms()):
                services.bus.publish("measurement", {"id": job})

    ticker = Ticker("measurements", TICK_S, take)

    def committed(_device: str, records: Sequence[wire.Record]) -> None:
        if any(isinstance(one, (wire.MeasurementRecord, wire.CommandAnswer)) for one in records):
            ticker.wake()

    services.hooks.on_committed.append(committed)
    services.hooks.routers.append(api.router(jobs, repository))
    services.hooks.on_stop.append(ticker.stop)
    ticker.start()
    return jobs
