"""Rollouts as the fleet manager runs them: the engine's thread, its hooks into ingest, its routes."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core import wire
from edgekit_fleet.broker.commanding import Commanding
from edgekit_fleet.broker.downlink import Downlink
from edgekit_fleet.ingest.ports import Answer, Hooks
from edgekit_fleet.registry.keys import SigningKey
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.rollout import api
from edgekit_fleet.rollout.desired import DesiredStates
from edgekit_fleet.rollout.engine import Bundles, Engine
from edgekit_fleet.rollout.records import Rollout, Rollouts
from edgekit_fleet.store.clock import unix_ms
from edgekit_fleet.store.database import Database
from edgekit_fleet.web.bus import Bus

TICK_S = 1.0
DIRECTED_S = 5.0
"""How long the answer to a new rollout waits for its first devices to be told: scripts go on from there."""


class RolloutService:
    """Drives the rollouts of a fleet manager until it is stopped.

    Args:
        database: The fleet's database.
        key: Signs desired states.
        bundles: Finds published bundles.
        downlink: Sends desired states to devices.
        commanding: Sends a device the command to roll back.
        bus: Gets a change for every rollout that changed.
        hooks: Where ingest reports what devices sent.
        restored_ms: When a backup was restored; 0: never.
    """

    def __init__(
        self,
        database: Database,
        key: SigningKey,
        bundles: Bundles,
        *,
        downlink: Downlink,
        commanding: Commanding,
        bus: Bus,
        hooks: Hooks,
        restored_ms: int = 0,
    ) -> None:
        self._commanding, self._bus = commanding, bus
        self.desired = DesiredStates(database, key, downlink, unix_ms, restored_ms)
        self.engine = Engine(
            Rollouts(database),
            self.desired,
            bundles,
            unix_ms,
            roll_back=self._roll_back,
            changed=self._changed,
        )
        self._ticker = Ticker("rollouts", TICK_S, self.engine.tick)
        self.router = api.router(self.engine, lambda: self._ticker.catch_up(DIRECTED_S))
        hooks.on_committed.append(self._committed)
        hooks.on_reported.append(lambda _device, _reported: self._ticker.wake())
        hooks.on_state.append(self._appeared)
        hooks.requests["desired"] = self._answer
        self._ticker.start()

    def stop(self) -> None:
        """End the engine's thread; safe twice."""
        self._ticker.stop()

    def _roll_back(self, device: str, model: str) -> None:
        self._commanding.command(device, "rollback", {"model": model})

    def _changed(self, rollout: Rollout) -> None:
        self._bus.publish("rollout", api.summary(rollout))
        self._ticker.wake()

    def _committed(self, device: str, records: Sequence[wire.Record]) -> None:
        """Wake the engine for records it waits for; it reads them from the store."""
        if any(isinstance(record, wire.MetricReport) for record in records):
            self.engine.observer.note(device)
        if any(isinstance(record, wire.UpdateRecord) for record in records):
            self._ticker.wake()

    def _appeared(self, device: str, birth: wire.Birth) -> None:
        if birth.online:
            self.desired.publish_if_newer(device, birth.desired)

    def _answer(self, device: str, request: wire.Request) -> Answer:
        return wire.Response(request.id, {"version": self.desired.publish(device)})
