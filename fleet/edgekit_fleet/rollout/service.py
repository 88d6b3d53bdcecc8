"""Attaches rollouts to the fleet manager: the engine's thread, its hooks, its routes."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core import wire
from edgekit_fleet.registry.keys import online_keys
from edgekit_fleet.registry.repository import open_repository, unix_ms
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.rollout import api
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.rollout.engine import Engine
from edgekit_fleet.rollout.store import Rollout, RolloutStore
from edgekit_fleet.services import Answer, Services

TICK_S = 1.0


def attach(services: Services) -> Engine:
    """Drive the rollouts of a fleet manager until it stops.

    Raises:
        ConfigError: A key file is not one.
        StorageError: The data folder cannot be written.
    """
    data, database = services.settings.data, services.database
    desired = DesiredStates(database, online_keys(data).desired, services.downlink, unix_ms)

    def roll_back(device: str, model: str) -> None:
        services.commanding.command(device, "rollback", {"model": model})

    def changed(rollout: Rollout) -> None:
        services.bus.publish("rollout", api.summary(rollout))
        ticker.wake()

    engine = Engine(
        RolloutStore(database),
        desired,
        open_repository(data, database),
        unix_ms,
        roll_back=roll_back,
        changed=changed,
    )
    ticker = Ticker("rollouts", TICK_S, engine.tick)
    _hook(services, engine, ticker)
    services.hooks.routers.append(api.router(engine))
    services.hooks.on_stop.append(ticker.stop)
    ticker.start()
    return engine


def _hook(services: Services, engine: Engine, ticker: Ticker) -> None:
    """Wake the engine when devices say something it waits for; all of it is read from the store."""
    hooks, desired = services.hooks, engine.desired

    def committed(device: str, records: Sequence[wire.Record]) -> None:
        if any(isinstance(record, wire.MetricReport) for record in records):
            engine.observer.note(device)
        if any(isinstance(record, wire.UpdateRecord) for record in records):
            ticker.wake()

    def appeared(device: str, birth: wire.Birth) -> None:
        if birth.online:
            desired.publish_if_newer(device, birth.desired)

    def asked(device: str, request: wire.Request) -> Answer:
        return wire.Response(request.id, {"version": desired.publish(device)})

    hooks.on_committed.append(committed)
    hooks.on_reported.append(lambda _device, _reported: ticker.wake())
    hooks.on_state.append(appeared)
    hooks.on_downlink.append(desired.publish_all)
    hooks.requests["desired"] = asked
