"""The protocol through which ``Controls`` and ``MeasuringHost`` use the supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgekit.agent.config import AgentConfig
from edgekit.agent.jobs import Jobs
from edgekit.agent.measuring.runs import Measuring
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.egress import Egress
from edgekit.agent.supervisor.fleet import FleetSide
from edgekit.agent.supervisor.pool import WorkerPool
from edgekit.agent.supervisor.updates import ModelUpdates
from edgekit.base.clock import FlooredClock
from edgekit.core.wire import Reported
from edgekit.update.slots import Slots

if TYPE_CHECKING:
    from edgekit.agent.supervisor.address import LocalAddress


class Parts(Protocol):
    """The parts of a running supervisor; use them on its thread only."""

    config: AgentConfig
    clock: FlooredClock
    reactor: Reactor
    egress: Egress
    fleet: FleetSide
    pool: WorkerPool
    models: dict[str, ModelUpdates]
    measuring: Measuring
    slots: Slots
    jobs: Jobs
    sensors: dict[str, float]
    started_s: float
    address: LocalAddress | None

    def add_models(self, config: AgentConfig) -> list[ModelUpdates]:
        """Begin to keep the models that pipelines name; return those that are new."""

    def changed(self) -> None:
        """Schedule one report of the state for all changes until then."""

    def want(self, *, is_new: bool) -> None:
        """Start the updates that the desired state asks for; ``is_new`` ones wait for no retry timer."""

    def refresh(self) -> Reported:
        """Return the current state to report."""
