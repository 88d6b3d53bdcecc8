"""What measuring needs of a supervisor: what speaks against it, the updater, the way out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.agent.measuring.order import MeasureOrder, hindrance
from edgekit.bench.reports import take_reports
from edgekit.core.errors import EdgekitError
from edgekit.core.wire import MeasurementRecord
from edgekit.update.contract import UpdaterResult
from edgekit.update.machine import State

if TYPE_CHECKING:
    from edgekit.agent.supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)


class MeasuringOffice:
    """A supervisor as ``Measuring`` sees it.

    Args:
        supervisor: Used on its thread only.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def hindrance(self) -> str:
        """Return why nothing should be measured now; empty where nothing speaks against it."""
        supervisor = self._supervisor
        survey = supervisor.fleet.survey
        return hindrance(
            {name: updates.reported().state for name, updates in supervisor.models.items()},
            {pipeline.name: pipeline.reported() for pipeline in supervisor.pipelines},
            {plan.name: plan.budget_ms for plan in supervisor.config.pipelines},
            supervisor.sensors,
            survey.profile.limits.temperature_c if survey else 0.0,
        )

    def is_updating(self) -> bool:
        """Return whether an update is under way."""
        states = (updates.reported().state for updates in self._supervisor.models.values())
        return any(state != State.IDLE.value for state in states)

    def fetch_to_measure(
        self,
        order: MeasureOrder,
        area: Path,
        max_bytes: int,
        timeout_s: float,
        done: Callable[[UpdaterResult | EdgekitError], None],
    ) -> None:
        """Have the updater bring a bundle below ``area``; ``done`` is called on the reactor."""
        self._supervisor.fleet.fetch_to_measure(order, area, max_bytes, timeout_s, done)

    def tell(self, record: MeasurementRecord) -> None:
        """Put a record into the outbox, durably."""
        self._supervisor.outgoing.put(record)
        self._supervisor.outgoing.outbox.flush()

    def take_reports(self) -> int:
        """Put measurements that other processes left into the outbox; return how many."""
        outgoing = self._supervisor.outgoing
        try:
            return take_reports(self._supervisor.config.state, outgoing.put, outgoing.outbox.flush)
        except OSError as cause:
            logger.warning("reports stay where they are: %s", cause)
            return 0
